package home

import (
	"unsafe"

	"golang.org/x/sys/windows"
)

// sioAFUnixGetPeerPid is SIO_AF_UNIX_GETPEERPID of afunix.h.
const sioAFUnixGetPeerPid = 0x58000100

// socketPeer returns only the pid. Windows reports no user; only the access rights of the socket's folder keep other users
// out.
func socketPeer(fd uintptr) (peer, error) {
	var pid, size uint32
	err := windows.WSAIoctl(windows.Handle(fd), sioAFUnixGetPeerPid, nil, 0, (*byte)(unsafe.Pointer(&pid)), uint32(unsafe.Sizeof(pid)), &size, nil, 0)
	if err != nil {
		return peer{pid: unknown, uid: unknown}, nil // versions of Windows before 10.0.17063 don't report the pid
	}
	return peer{pid: int(pid), uid: unknown}, nil
}
