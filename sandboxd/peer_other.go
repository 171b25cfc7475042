//go:build !linux && !darwin

package sandboxd

import "net"

// peerUID reports that the peer's uid is unknown. On these systems, only the access rights of the socket's folder keep other
// users out.
func peerUID(*net.UnixConn) (uid int, known bool, err error) { return 0, false, nil }
