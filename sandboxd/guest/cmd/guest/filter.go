//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// denied contains the system calls that make or enter namespaces, and those that change mounts.
var denied = []uint32{
	unix.SYS_UNSHARE, unix.SYS_SETNS,
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT,
	unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK,
	unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE, unix.SYS_OPEN_TREE_ATTR, unix.SYS_MOUNT_SETATTR,
}

// namespaceFlags are CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET. CLONE_NEWTIME is not among
// them: clone interprets the bit of CLONE_NEWTIME as part of the exit signal.
const namespaceFlags = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// architectures maps GOARCH to the value of seccomp_data.arch, which selects the table that a system call's number
// belongs to.
var architectures = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

// Offsets in struct seccomp_data. Both architectures store the low half of an argument first.
const (
	dataNumber       = 0
	dataArchitecture = 4
	dataArgument0    = 16
)

// x32 is set in the numbers of amd64's second set of system calls.
const x32 = 0x40000000

// namespaceFilter returns a seccomp program that refuses with EPERM all calls that make or enter namespaces or change
// mounts, and all calls of other architectures. The flags of clone3 are in memory behind a pointer, which no seccomp
// program can read. So clone3 fails with ENOSYS, and libc calls clone instead.
func namespaceFilter() []unix.SockFilter {
	const load, equal, atLeast, anyBit = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K,
		unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
	answer := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	eperm, enosys, allow := answer(unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM)), answer(unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS)), answer(unix.SECCOMP_RET_ALLOW)
	// A comparison skips Jt instructions if it is true, and Jf instructions if it is false.
	program := []unix.SockFilter{
		{Code: load, K: dataArchitecture},
		{Code: equal, K: architectures[runtime.GOARCH], Jt: 1}, eperm,
		{Code: load, K: dataNumber},
		{Code: atLeast, K: x32, Jf: 1}, eperm,
		{Code: equal, K: unix.SYS_CLONE3, Jf: 1}, enosys,
	}
	for _, number := range denied {
		program = append(program, unix.SockFilter{Code: equal, K: number, Jf: 1}, eperm)
	}
	return append(program,
		unix.SockFilter{Code: equal, K: unix.SYS_CLONE, Jt: 1}, allow,
		unix.SockFilter{Code: load, K: dataArgument0},
		unix.SockFilter{Code: anyBit, K: namespaceFlags, Jf: 1}, eperm,
		allow)
}

// refuseNamespaces installs namespaceFilter for this thread and for everything that it starts or executes, unless a
// filter is installed already. Without --oci-seccomp, Docker's runsc ignores the filter of the container, and code
// could make a user namespace in which it has every capability. The caller must have called runtime.LockOSThread.
func refuseNamespaces() error {
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return err
	}
	if !bytes.Contains(status, []byte("\nSeccomp:\t0\n")) {
		return nil // a filter is installed already, or the kernel does not support filters
	}
	return installFilter(namespaceFilter())
}

// installFilter installs a seccomp program for this thread. It can't be undone.
func installFilter(program []unix.SockFilter) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if _, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&fprog))); e != 0 {
		return fmt.Errorf("seccomp: %w", e)
	}
	return nil
}
