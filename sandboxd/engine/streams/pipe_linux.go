package streams

import (
	"os"

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
