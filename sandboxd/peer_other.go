//go:build !linux && !darwin

package sandboxd

import "net"

// peerUID: the folder's access rights are what keeps others out here.
func peerUID(*net.UnixConn) (uid int, known bool, err error) { return 0, false, nil }
