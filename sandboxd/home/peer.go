package home

import "net"

// peer identifies the process at the other end of a socket. A field is unknown if the system does not report it.
type peer struct{ pid, uid int }

const unknown = -1

// peerOf returns the process at the other end of c. If c is a client's connection to a daemon, that is the process that
// listens on the socket.
func peerOf(c *net.UnixConn) (p peer, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return peer{}, err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { p, failed = socketPeer(fd) }); err != nil {
		return peer{}, err
	}
	return p, failed
}
