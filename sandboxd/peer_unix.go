//go:build linux || darwin

package sandboxd

import "net"

// peerUID returns the uid of the process at the other end of c. On Linux and macOS, known is always true.
func peerUID(c *net.UnixConn) (uid int, known bool, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, true, err
	}
	var credErr error
	if err := raw.Control(func(fd uintptr) { uid, credErr = socketUID(int(fd)) }); err != nil {
		return 0, true, err
	}
	return uid, true, credErr
}
