package engine

import (
	"slices"
	"strings"
)

// syscallGroup is a group of allowed system calls, and the reason why they are allowed.
type syscallGroup struct {
	why   string
	names string       // separated by spaces; calls that an architecture or kernel lacks are ignored
	args  []SeccompArg // the conditions, all of which must be true
}

// SeccompProfile is a system call filter in the format that Docker and OCI runtimes read.
type SeccompProfile struct {
	DefaultAction string        `json:"defaultAction"`
	Syscalls      []SeccompRule `json:"syscalls"`
}

// SeccompRule applies if all conditions in Args are true. Several rules may name the same call.
type SeccompRule struct {
	Names    []string     `json:"names"`
	Action   string       `json:"action"`
	ErrnoRet *uint        `json:"errnoRet,omitempty"`
	Args     []SeccompArg `json:"args,omitempty"`
	Comment  string       `json:"comment,omitempty"`
}

// SeccompArg is a condition on one argument of a system call. If Op is SCMP_CMP_MASKED_EQ, the condition is that the
// bits of the argument that are set in Value equal ValueTwo.
type SeccompArg struct {
	Index    uint   `json:"index"`
	Value    uint64 `json:"value"`
	ValueTwo uint64 `json:"valueTwo"`
	Op       string `json:"op"`
}

// allowed lists the system calls that code in a sandbox can make on every engine. The list is based on traces of Python
// with the data stack (threads, multiprocessing with all three start methods, subprocesses, asyncio, SQLite), of Node
// with workers and child processes, and of shell tools. A call that is not listed fails with EPERM, except for those in
// allowedInGVisor and refused.
var allowed = []syscallGroup{
	{why: "read and write open files", names: `
		read readv pread64 preadv preadv2 write writev pwrite64 pwritev pwritev2 lseek _llseek
		close close_range dup dup2 dup3 fcntl flock ioctl sendfile copy_file_range
		fsync fdatasync sync_file_range syncfs ftruncate fallocate fadvise64 readahead pipe pipe2`},
	{why: "find and change files", names: `
		open openat openat2 creat access faccessat faccessat2 stat fstat lstat newfstatat statx
		statfs fstatfs readlink readlinkat getdents getdents64 getcwd chdir fchdir umask
		mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat truncate
		chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes futimesat utimensat
		getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr`},
	{why: "mkfifo, and no devices", names: `mknod`, args: []SeccompArg{{Index: 1, Value: sIFMT, ValueTwo: sIFIFO, Op: masked}}},
	{why: "mkfifo, and no devices", names: `mknodat`, args: []SeccompArg{{Index: 2, Value: sIFMT, ValueTwo: sIFIFO, Op: masked}}},
	{why: "notice changes of files", names: `inotify_init inotify_init1 inotify_add_watch inotify_rm_watch`},
	{why: "memory", names: `
		brk mmap munmap mremap mprotect madvise mincore msync mlock mlock2 munlock mlockall munlockall
		memfd_create membarrier pkey_alloc pkey_free pkey_mprotect`},
	{why: "new processes and threads, and no new namespaces", names: `clone`,
		args: []SeccompArg{{Index: 0, Value: cloneNamespaces, ValueTwo: 0, Op: masked}}},
	{why: "processes and threads", names: `
		fork vfork execve execveat exit exit_group wait4 waitid pidfd_open
		getpid getppid gettid getpgid getpgrp getsid setpgid setsid set_tid_address arch_prctl prctl
		futex futex_waitv futex_wait futex_wake futex_requeue get_robust_list set_robust_list rseq restart_syscall`},
	{why: "who am I; and the guest becomes the kernels' user (kernels lack the capabilities)", names: `
		getuid geteuid getresuid getgid getegid getresgid getgroups
		setuid setreuid setresuid setfsuid setgid setregid setresgid setfsgid setgroups capget capset`},
	{why: "signals, without those that carry a forged sender", names: `
		kill tkill tgkill rt_sigaction rt_sigprocmask rt_sigpending rt_sigreturn rt_sigsuspend rt_sigtimedwait
		sigaltstack signalfd signalfd4 pause alarm getitimer setitimer`},
	{why: "scheduling and limits of one's own", names: `
		sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_setattr sched_getparam sched_setparam
		sched_getscheduler sched_setscheduler sched_get_priority_max sched_get_priority_min sched_rr_get_interval
		getcpu getpriority setpriority ioprio_get ioprio_set getrlimit setrlimit prlimit64 getrusage times`},
	{why: "time", names: `
		time gettimeofday clock_gettime clock_getres clock_nanosleep nanosleep
		timer_create timer_settime timer_gettime timer_getoverrun timer_delete
		timerfd_create timerfd_settime timerfd_gettime`},
	{why: "waiting for many things", names: `
		select pselect6 poll ppoll epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old
		epoll_pwait epoll_pwait2 eventfd eventfd2`},
	{why: "unix sockets", names: `socket socketpair`, args: []SeccompArg{low32(0, afUnix)}},
	{why: "TCP: there is only lo", names: `socket`, args: []SeccompArg{low32(0, afInet), socketType(sockStream), low32(2, 0)}},
	{why: "TCP: there is only lo", names: `socket`, args: []SeccompArg{low32(0, afInet), socketType(sockStream), low32(2, ipprotoTCP)}},
	{why: "UDP: there is only lo", names: `socket`, args: []SeccompArg{low32(0, afInet), socketType(sockDgram), low32(2, 0)}},
	{why: "UDP: there is only lo", names: `socket`, args: []SeccompArg{low32(0, afInet), socketType(sockDgram), low32(2, ipprotoUDP)}},
	{why: "TCP over IPv6: there is only lo", names: `socket`, args: []SeccompArg{low32(0, afInet6), socketType(sockStream), low32(2, 0)}},
	{why: "TCP over IPv6: there is only lo", names: `socket`, args: []SeccompArg{low32(0, afInet6), socketType(sockStream), low32(2, ipprotoTCP)}},
	{why: "UDP over IPv6: there is only lo", names: `socket`, args: []SeccompArg{low32(0, afInet6), socketType(sockDgram), low32(2, 0)}},
	{why: "UDP over IPv6: there is only lo", names: `socket`, args: []SeccompArg{low32(0, afInet6), socketType(sockDgram), low32(2, ipprotoUDP)}},
	{why: "use of sockets", names: `
		bind connect listen accept accept4 getsockname getpeername getsockopt setsockopt shutdown
		sendto sendmsg sendmmsg recvfrom recvmsg recvmmsg`},
	{why: "harmless questions", names: `uname sysinfo getrandom`},
}

// allowedInGVisor lists the system calls that are also allowed under gVisor, because gVisor's own kernel handles
// them.
var allowedInGVisor = []syscallGroup{
	{why: "getifaddrs lists lo with it", names: `socket`, args: []SeccompArg{low32(0, afNetlink), low32(2, netlinkRoute)}},
	{why: "gVisor's filter cannot return the EINVAL that makes programs copy instead", names: `splice tee`},
}

// refused lists system calls that must fail with an error other than EPERM, because after EPERM programs do not try
// other calls instead.
var refused = []struct {
	why, names string
	errno      uint
}{
	{"its flags are behind a pointer, where no filter can look; libc falls back to clone", "clone3", enosys},
	{"a source of kernel bugs; programs fall back to copying", "splice tee vmsplice", einval},
}

const (
	sIFMT, sIFIFO                      = 0o170000, 0o010000
	afUnix, afInet, afInet6, afNetlink = 1, 2, 10, 16
	sockStream, sockDgram              = 1, 2
	sockNonblock, sockCloexec          = 0x800, 0x80000
	ipprotoTCP, ipprotoUDP             = 6, 17
	netlinkRoute                       = 0
	// The flags of clone that create namespaces: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET.
	cloneNamespaces = 0x7e020000
	einval, enosys  = 22, 38
	int32Bits       = 0xffffffff

	masked = "SCMP_CMP_MASKED_EQ"
)

// low32 returns the condition that the argument at index, which has the C type int, equals value. The argument's
// register has 64 bits, and the machine's kernel ignores the upper half. A rule that compared all 64 bits would refuse
// calls that the machine's kernel accepts.
func low32(index uint, value uint64) SeccompArg {
	return SeccompArg{Index: index, Value: int32Bits, ValueTwo: value, Op: masked}
}

// socketType returns the condition that the second argument of the socket call is the socket type value, such as
// SOCK_STREAM, with or without SOCK_NONBLOCK and SOCK_CLOEXEC.
func socketType(value uint64) SeccompArg {
	return SeccompArg{Index: 1, Value: int32Bits &^ (sockNonblock | sockCloexec), ValueTwo: value, Op: masked}
}

// Seccomp returns the system call filter for sandboxes. The filter names no architecture, so Docker allows only the
// native one, and kills a process that uses another (32-bit calls on a 64-bit machine). The parameter gvisor is true
// if gVisor's kernel handles the calls instead of the machine's.
func Seccomp(gvisor bool) SeccompProfile {
	profile := SeccompProfile{DefaultAction: "SCMP_ACT_ERRNO"} // a call that no rule names fails with EPERM
	groups := allowed
	if gvisor {
		groups = slices.Concat(allowed, allowedInGVisor)
	}
	for _, g := range groups {
		profile.Syscalls = append(profile.Syscalls, SeccompRule{
			Names: strings.Fields(g.names), Action: "SCMP_ACT_ALLOW", Args: g.args, Comment: g.why})
	}
	if gvisor {
		// gVisor's filter returns EPERM whatever errno a rule names, but libc uses clone instead of clone3 only after
		// ENOSYS. SCMP_ACT_TRACE leaves the decision to a tracer, and the call returns ENOSYS if there is no tracer.
		// There is never a tracer, because code in a sandbox can't trace.
		profile.Syscalls = append(profile.Syscalls, SeccompRule{Names: []string{"clone3"}, Action: "SCMP_ACT_TRACE",
			Comment: "ENOSYS: its flags are behind a pointer, where no filter can look; libc falls back to clone"})
		return profile
	}
	for _, r := range refused {
		profile.Syscalls = append(profile.Syscalls, SeccompRule{
			Names: strings.Fields(r.names), Action: "SCMP_ACT_ERRNO", ErrnoRet: new(r.errno), Comment: r.why})
	}
	return profile
}
