//go:build linux

package supervisor

import (
	"syscall"
	"unsafe"
)

func ptr(p *uint32) uintptr { return uintptr(unsafe.Pointer(p)) }

func setgroups(groups []uint32) syscall.Errno {
	if len(groups) == 0 {
		_, _, e := syscall.RawSyscall(syscall.SYS_SETGROUPS, 0, 0, 0)
		return e
	}
	_, _, e := syscall.RawSyscall(syscall.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&groups[0])), 0)
	return e
}
