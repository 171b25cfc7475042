//go:build linux

package streams

import (
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// growPipe makes a pipe hold more. Where it may not, the stream is slower, and works.
func growPipe(pipe *os.File) {
	conn, err := pipe.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeBytes) })
}

// detach gives a program a session of its own: what is meant for the daemon's terminal or process group does not reach it.
func detach(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
}
