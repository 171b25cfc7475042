//go:build linux

package streams

import (
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// growPipe increases the capacity of a pipe. If that is not permitted, the stream is slower but works.
func growPipe(pipe *os.File) {
	conn, err := pipe.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeBytes) })
}

// detach starts the command in its own session, so that signals for the daemon's terminal or process group do not
// reach it.
func detach(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
}
