//go:build linux

package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"syscall"
)

// rlimitNproc is RLIMIT_NPROC, for which package syscall has no name. The number is the same on amd64 and arm64.
const rlimitNproc = 6

// maxOpenFiles is how many files one process of a sandbox may have open.
const maxOpenFiles = 4096

// niceness is the kernels' nice value, which gives the guest priority over them. It only affects processes of the
// same sandbox; sandboxes compete through the shares of their cgroups.
const niceness = 10

// launch turns this process into a kernel: it switches to the kernels' user, sets the limits and executes the kernel's
// program. The guest starts this process as root, because the guest waits until the process has executed `guest
// launch`, and code in the sandbox could stop a process of the kernels' user before that.
func launch(args []string) error {
	flags := flag.NewFlagSet("launch", flag.ContinueOnError)
	uid := flags.Int("uid", 0, "user and group of the kernel")
	dir := flags.String("dir", "/", "working directory")
	processes := flags.Uint64("processes", 0, "largest number of processes and threads of the user; 0: no limit")
	file := flags.Uint64("file", 0, "largest size of one file in bytes; 0: no limit")
	data := flags.Uint64("data", 0, "largest private memory in bytes; 0: no limit")
	space := flags.Uint64("space", 0, "largest address space in bytes, set only if a limit on private memory has no effect; 0: no limit")
	home := flags.String("home", "", "home folder, created if it is missing")
	if err := flags.Parse(args); err != nil {
		return err
	}
	argv := flags.Args()
	if len(argv) == 0 {
		return errors.New("no program to execute: pass it after the flags")
	}
	if *uid <= 0 {
		return errors.New("--uid must be above 0")
	}
	syscall.Umask(0o022)
	// If memory runs out, the OOM killer must choose the kernel and not the guest. The guest lowers the value while the
	// kernel is idle (supervisor/oomscore.go).
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0)
	// The niceness, the filter and the ids below are set only for this thread, so the same thread must execute the
	// kernel's program.
	runtime.LockOSThread()
	// The guest has priority, even if the code starts many processes.
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, niceness)
	// The filter is installed before the user changes, so that every process of the kernels' user has the filter.
	if err := refuseNamespaces(); err != nil {
		return fmt.Errorf("filter system calls: %w", err)
	}
	if err := becomeUser(uintptr(*uid)); err != nil {
		return fmt.Errorf("become user %d: %w", *uid, err)
	}
	if err := os.Chdir(*dir); err != nil {
		return err
	}
	if *home != "" {
		_ = os.MkdirAll(*home, 0o700) // an error is ignored, because programs work without a home folder
	}
	env := os.Environ()
	for _, l := range []struct {
		name     string
		resource int
		limit    uint64
	}{
		{"core", syscall.RLIMIT_CORE, 0},
		{"nofile", syscall.RLIMIT_NOFILE, maxOpenFiles},
		{"nproc", rlimitNproc, *processes},
		{"fsize", syscall.RLIMIT_FSIZE, *file},
		{"data", syscall.RLIMIT_DATA, *data},
	} {
		if l.limit == 0 && l.resource != syscall.RLIMIT_CORE {
			continue
		}
		if err := limit(l.resource, l.limit); err != nil {
			return fmt.Errorf("limit %s to %d: %w", l.name, l.limit, err)
		}
	}
	if *space > 0 && !dataLimitWorks(*data) {
		if err := limit(syscall.RLIMIT_AS, *space); err != nil {
			return fmt.Errorf("limit address space to %d: %w", *space, err)
		}
	}
	return fmt.Errorf("execute %s: %w", argv[0], syscall.Exec(argv[0], argv, env))
}

// becomeUser changes the user and group of this thread. It can't be undone.
func becomeUser(id uintptr) error {
	if _, _, e := syscall.RawSyscall(syscall.SYS_SETGROUPS, 0, 0, 0); e != 0 {
		return fmt.Errorf("setgroups: %w", e)
	}
	if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESGID, id, id, id); e != 0 {
		return fmt.Errorf("setresgid: %w", e)
	}
	if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESUID, id, id, id); e != 0 {
		return fmt.Errorf("setresuid: %w", e)
	}
	return nil
}

// dataLimitWorks reports whether the limit of private memory works on this system. gVisor accepts the limit but does
// not count mapped memory. So dataLimitWorks tries to map more than the limit allows.
func dataLimitWorks(data uint64) bool {
	if data == 0 {
		return false
	}
	p, err := syscall.Mmap(-1, 0, int(data), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON|syscall.MAP_NORESERVE)
	if err != nil {
		return true
	}
	_ = syscall.Munmap(p)
	return false
}

// limit sets the soft and the hard value of a limit to n, or to the current hard value if that is lower.
func limit(resource int, n uint64) error {
	var now syscall.Rlimit
	if err := syscall.Getrlimit(resource, &now); err != nil {
		return err
	}
	n = min(n, now.Max)
	return syscall.Setrlimit(resource, &syscall.Rlimit{Cur: n, Max: n})
}
