//go:build linux

package main

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// never is an argument that is not a valid pointer, file descriptor or set of flags.
const never = ^uintptr(0)

// trySockets tries to create each kind of socket that a filter must refuse or allow, with socket and with socketpair.
func trySockets(results map[string]string) {
	for name, family := range map[string]uintptr{"netlink": unix.AF_NETLINK, "packet": unix.AF_PACKET, "alg": unix.AF_ALG,
		"vsock": unix.AF_VSOCK, "bluetooth": unix.AF_BLUETOOTH, "can": unix.AF_CAN, "key": unix.AF_KEY, "rds": unix.AF_RDS,
		"tipc": unix.AF_TIPC, "xdp": unix.AF_XDP} {
		fd, _, errno := syscall.RawSyscall(unix.SYS_SOCKET, family, unix.SOCK_RAW, 0)
		results[name+" socket"] = closeAll(errno, int32(fd))
	}
	const uncommon = 1 << 40 // the machine's kernel uses only the low 32 bits of these arguments
	for name, kind := range map[string][3]uintptr{
		"TCP over IPv4 socket":      {unix.AF_INET, unix.SOCK_STREAM | unix.SOCK_CLOEXEC, unix.IPPROTO_TCP},
		"UDP over IPv4 socket":      {unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP},
		"unix stream socket":        {unix.AF_UNIX, unix.SOCK_STREAM, 0},
		"unix seqpacket socket":     {unix.AF_UNIX, unix.SOCK_SEQPACKET | unix.SOCK_CLOEXEC, 0},
		"unix socket, high bits":    {unix.AF_UNIX | uncommon, unix.SOCK_STREAM | uncommon, uncommon},
		"netlink socket, high bits": {unix.AF_NETLINK | uncommon, unix.SOCK_RAW, 0},
		"netlink, generic":          {unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_GENERIC},
		"netlink, netfilter":        {unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER},
		"raw IPv4 socket":           {unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP},
		"ping IPv4 socket":          {unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP},
		"MPTCP socket":              {unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP},
		"MPTCP IPv6 socket":         {unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_MPTCP},
		"MPTCP socket, high bits":   {unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP | uncommon},
		"UDP-Lite socket":           {unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE},
		"UDP-Lite IPv6 socket":      {unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE},
		"SCTP socket":               {unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP},
		"SCTP seqpacket socket":     {unix.AF_INET, unix.SOCK_SEQPACKET, unix.IPPROTO_SCTP},
		"DCCP socket":               {unix.AF_INET, unix.SOCK_DCCP, unix.IPPROTO_DCCP},
	} {
		fd, _, errno := syscall.RawSyscall(unix.SYS_SOCKET, kind[0], kind[1], kind[2])
		results[name] = closeAll(errno, int32(fd))
	}
	for name, kind := range map[string][3]uintptr{
		"unix socketpair":            {unix.AF_UNIX, unix.SOCK_STREAM | unix.SOCK_CLOEXEC, 0},
		"unix socketpair, high bits": {unix.AF_UNIX | uncommon, unix.SOCK_DGRAM, 0},
		"tipc socketpair":            {unix.AF_TIPC, unix.SOCK_STREAM, 0},
		"netlink socketpair":         {unix.AF_NETLINK, unix.SOCK_RAW, 0},
		"IPv4 socketpair":            {unix.AF_INET, unix.SOCK_STREAM, 0},
		"vsock socketpair":           {unix.AF_VSOCK, unix.SOCK_STREAM, 0},
	} {
		var pair [2]int32
		_, _, errno := syscall.RawSyscall6(unix.SYS_SOCKETPAIR, kind[0], kind[1], kind[2], uintptr(unsafe.Pointer(&pair)), 0, 0)
		results[name] = closeAll(errno, pair[:]...)
	}
}

// closeAll closes the descriptors that a call has returned, and returns the call's result: "ok" or the error.
func closeAll(errno syscall.Errno, fds ...int32) string {
	if errno != 0 {
		return errnoName(errno)
	}
	for _, fd := range fds {
		unix.Close(int(fd))
	}
	return "ok"
}

// trySyscalls makes system calls that code in a sandbox does not need. Their arguments make them harmless if they are
// allowed. EPERM means that the filter (or a missing capability) refused the call. The filter can also refuse clone3
// with ENOSYS, and splice, tee and vmsplice with EINVAL. Any other result comes from the kernel behind the filter.
func trySyscalls() map[string]string {
	results := map[string]string{}
	try := func(name string, number uintptr, args ...uintptr) {
		var a [6]uintptr
		copy(a[:], args)
		_, _, errno := syscall.RawSyscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
		if errno == 0 {
			results[name] = "ok"
			return
		}
		results[name] = errnoName(errno)
	}
	empty := [128]byte{}
	cwd := unix.AT_FDCWD
	buf := uintptr(unsafe.Pointer(&empty))

	// Calls through which bugs of kernels have been exploited.
	try("io_uring_setup", unix.SYS_IO_URING_SETUP, 1, never)
	try("io_uring_enter", unix.SYS_IO_URING_ENTER, never)
	try("io_uring_register", unix.SYS_IO_URING_REGISTER, never)
	try("bpf", unix.SYS_BPF, never, never, 0)
	try("perf_event_open", unix.SYS_PERF_EVENT_OPEN, never, 0, never, never, 0)
	try("userfaultfd", unix.SYS_USERFAULTFD, never)
	try("keyctl", unix.SYS_KEYCTL, never)
	try("add_key", unix.SYS_ADD_KEY, never, never, 0, 0, 0)
	try("request_key", unix.SYS_REQUEST_KEY, never, never, never, 0)
	try("splice", unix.SYS_SPLICE, never, 0, never, 0, 1, 0)
	try("tee", unix.SYS_TEE, never, never, 1, 0)
	try("vmsplice", unix.SYS_VMSPLICE, never, never, 1, 0)
	try("modify_ldt", modifyLDT, never)
	try("seccomp", unix.SYS_SECCOMP, never, 0, 0)
	try("landlock_create_ruleset", unix.SYS_LANDLOCK_CREATE_RULESET, never, 0, never)
	try("fanotify_init", unix.SYS_FANOTIFY_INIT, never, 0)
	try("remap_file_pages", unix.SYS_REMAP_FILE_PAGES, never)
	try("memfd_secret", unix.SYS_MEMFD_SECRET, never)
	try("io_setup", unix.SYS_IO_SETUP, 0, never)

	// Other processes.
	try("ptrace", unix.SYS_PTRACE, unix.PTRACE_ATTACH, never)
	try("process_vm_readv", unix.SYS_PROCESS_VM_READV, 1, never, 0, never, 0, never)
	try("process_vm_writev", unix.SYS_PROCESS_VM_WRITEV, 1, never, 0, never, 0, never)
	try("process_madvise", unix.SYS_PROCESS_MADVISE, never)
	try("pidfd_getfd", unix.SYS_PIDFD_GETFD, never, 0, never)
	try("pidfd_send_signal", unix.SYS_PIDFD_SEND_SIGNAL, never, 0, 0, never)
	try("rt_sigqueueinfo", unix.SYS_RT_SIGQUEUEINFO, 1, 0, 0)
	try("rt_tgsigqueueinfo", unix.SYS_RT_TGSIGQUEUEINFO, 1, 1, 0, 0)
	try("kcmp", unix.SYS_KCMP, 1, 1, never)
	try("move_pages", unix.SYS_MOVE_PAGES, 1, never)
	try("migrate_pages", unix.SYS_MIGRATE_PAGES, 1, never)

	// Namespaces and mounts.
	try("unshare user", unix.SYS_UNSHARE, unix.CLONE_NEWUSER|1)
	try("setns", unix.SYS_SETNS, never, 0)
	try("clone with a user namespace", unix.SYS_CLONE, unix.CLONE_NEWUSER|unix.CLONE_THREAD)
	try("clone3", unix.SYS_CLONE3, never, 0)
	try("mount", unix.SYS_MOUNT, never, never, never, 0, 0)
	try("umount2", unix.SYS_UMOUNT2, never, never)
	try("pivot_root", unix.SYS_PIVOT_ROOT, never, never)
	try("chroot", unix.SYS_CHROOT, never)
	try("open_tree", unix.SYS_OPEN_TREE, never, never, never)
	try("move_mount", unix.SYS_MOVE_MOUNT, never, never, never, never, never)
	try("fsopen", unix.SYS_FSOPEN, never, never)
	try("mount_setattr", unix.SYS_MOUNT_SETATTR, never, never, never, never, never)
	try("name_to_handle_at", unix.SYS_NAME_TO_HANDLE_AT, never, never, never, never, never)
	try("open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, never, never, never)
	try("mknod a device", unix.SYS_MKNODAT, uintptr(cwd), buf, unix.S_IFBLK|0o600, 0x0801)

	// Ways around the isolation between sandboxes.
	try("shmget", unix.SYS_SHMGET, never, 0, 0)
	try("semget", unix.SYS_SEMGET, never, 1, 0)
	try("msgget", unix.SYS_MSGGET, never, 0)
	try("mq_open", unix.SYS_MQ_OPEN, never, 0, 0, 0)
	trySockets(results)

	// The machine itself.
	try("personality", unix.SYS_PERSONALITY, 0x0400000)
	try("reboot", unix.SYS_REBOOT, 0, 0, 0)
	try("syslog", unix.SYS_SYSLOG, 3, buf, 1)
	try("init_module", unix.SYS_INIT_MODULE, never, 0, never)
	try("finit_module", unix.SYS_FINIT_MODULE, never, never, 0)
	try("delete_module", unix.SYS_DELETE_MODULE, never, 0)
	try("kexec_load", unix.SYS_KEXEC_LOAD, 0, 0, 0, never)
	try("swapon", unix.SYS_SWAPON, never, 0)
	try("acct", unix.SYS_ACCT, never)
	try("quotactl", unix.SYS_QUOTACTL, never, never)
	try("sethostname", unix.SYS_SETHOSTNAME, never, 1)
	try("clock_settime", unix.SYS_CLOCK_SETTIME, 0, never)
	try("vhangup", unix.SYS_VHANGUP)
	return results
}
