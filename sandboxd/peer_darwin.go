package sandboxd

import (
	"net"

	"golang.org/x/sys/unix"
)

// peerUID returns who is at the other end.
func peerUID(c *net.UnixConn) (uid int, known bool, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, true, err
	}
	var cred *unix.Xucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptXucred(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	}); err != nil {
		return 0, true, err
	}
	if credErr != nil {
		return 0, true, credErr
	}
	return int(cred.Uid), true, nil
}
