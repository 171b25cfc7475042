//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// underFilter is the environment variable that is set in the process that TestFilterInForce starts.
const underFilter = "DORMOUSE_TEST_UNDER_FILTER"

// never is a descriptor, an address and a set of flags that no call accepts, so that a call changes nothing even if the
// filter does not refuse it.
const never = ^uintptr(0)

// refused contains system calls and the errors that the filter returns for them. Without the filter, each of these
// calls fails with an error other than want.
var refused = map[string]struct {
	number, arg uintptr
	want        unix.Errno
}{
	"unshare":         {unix.SYS_UNSHARE, never, unix.EPERM},
	"setns":           {unix.SYS_SETNS, never, unix.EPERM},
	"mount":           {unix.SYS_MOUNT, never, unix.EPERM},
	"umount2":         {unix.SYS_UMOUNT2, never, unix.EPERM},
	"pivot_root":      {unix.SYS_PIVOT_ROOT, never, unix.EPERM},
	"chroot":          {unix.SYS_CHROOT, never, unix.EPERM},
	"fsopen":          {unix.SYS_FSOPEN, never, unix.EPERM},
	"fsconfig":        {unix.SYS_FSCONFIG, never, unix.EPERM},
	"fsmount":         {unix.SYS_FSMOUNT, never, unix.EPERM},
	"fspick":          {unix.SYS_FSPICK, never, unix.EPERM},
	"move_mount":      {unix.SYS_MOVE_MOUNT, never, unix.EPERM},
	"open_tree":       {unix.SYS_OPEN_TREE, never, unix.EPERM},
	"open_tree_attr":  {unix.SYS_OPEN_TREE_ATTR, never, unix.EPERM},
	"mount_setattr":   {unix.SYS_MOUNT_SETATTR, never, unix.EPERM},
	"clone3":          {unix.SYS_CLONE3, never, unix.ENOSYS},
	"clone, mount":    {unix.SYS_CLONE, unix.CLONE_NEWNS | unix.CLONE_THREAD, unix.EPERM}, // without the filter, CLONE_THREAD makes clone fail with EINVAL
	"clone, cgroup":   {unix.SYS_CLONE, unix.CLONE_NEWCGROUP | unix.CLONE_THREAD, unix.EPERM},
	"clone, uts":      {unix.SYS_CLONE, unix.CLONE_NEWUTS | unix.CLONE_THREAD, unix.EPERM},
	"clone, ipc":      {unix.SYS_CLONE, unix.CLONE_NEWIPC | unix.CLONE_THREAD, unix.EPERM},
	"clone, user":     {unix.SYS_CLONE, unix.CLONE_NEWUSER | unix.CLONE_THREAD, unix.EPERM},
	"clone, pid":      {unix.SYS_CLONE, unix.CLONE_NEWPID | unix.CLONE_THREAD, unix.EPERM},
	"clone, net":      {unix.SYS_CLONE, unix.CLONE_NEWNET | unix.CLONE_THREAD, unix.EPERM},
	"an x32 number":   {x32 | unix.SYS_GETPID, 0, unix.EPERM},
	"the last number": {1<<32 - 1, 0, unix.EPERM},
}

func TestMain(m *testing.M) {
	if os.Getenv(underFilter) == "" {
		os.Exit(m.Run())
	}
	runtime.LockOSThread()
	if err := installFilter(namespaceFilter()); err != nil {
		panic(err)
	}
	got := map[string]unix.Errno{}
	for name, c := range refused {
		_, _, got[name] = unix.RawSyscall6(c.number, c.arg, never, never, never, never, never)
	}
	_, _, got["clone, no namespace"] = unix.RawSyscall6(unix.SYS_CLONE, unix.CLONE_THREAD, 0, 0, 0, 0, 0)
	// Programs and threads that this thread starts must work.
	if out, err := exec.Command("/bin/sh", "-c", "echo a | cat").CombinedOutput(); err != nil || string(out) != "a\n" {
		panic(fmt.Sprintf("%v: %s", err, out))
	}
	var threads sync.WaitGroup
	for range 8 {
		threads.Go(runtime.LockOSThread)
	}
	threads.Wait()
	if err := json.NewEncoder(os.Stdout).Encode(got); err != nil {
		panic(err)
	}
}

// TestFilterInForce checks that the machine's kernel accepts the filter, rejects the calls in refused, and allows other
// calls.
func TestFilterInForce(t *testing.T) {
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), underFilter+"=1")
	child.Stderr = os.Stderr
	out, err := child.Output()
	if err != nil {
		t.Fatalf("the process with the filter: %v\n%s", err, out)
	}
	var got map[string]unix.Errno
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, c := range refused {
		if got[name] != c.want {
			t.Errorf("%s: %v, want %v", name, got[name], c.want)
		}
	}
	if got := got["clone, no namespace"]; got != unix.EINVAL {
		t.Errorf("clone with CLONE_THREAD alone: %v, want the kernel's EINVAL", got)
	}
}

// TestFilterRefusesOtherArchitectures checks that the filter rejects the system calls of other architectures, where the
// same numbers mean other calls. Not every machine can make such a call, so the test interprets the filter's program.
func TestFilterRefusesOtherArchitectures(t *testing.T) {
	own := architectures[runtime.GOARCH]
	for _, arch := range append(slices.Collect(maps.Values(architectures)), unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_ARM, 0) {
		want := uint32(unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM))
		if arch == own {
			want = unix.SECCOMP_RET_ALLOW
		}
		if got := interpret(t, namespaceFilter(), map[uint32]uint32{dataNumber: unix.SYS_GETPID, dataArchitecture: arch}); got != want {
			t.Errorf("getpid of architecture %#x: %#x, want %#x", arch, got, want)
		}
	}
}

// interpret runs a seccomp program and returns its answer. data contains the words of a struct seccomp_data by their
// offsets.
func interpret(t *testing.T, program []unix.SockFilter, data map[uint32]uint32) uint32 {
	t.Helper()
	var a uint32
	for pc := 0; pc < len(program); pc++ {
		i := program[pc]
		var holds bool
		switch i.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			a = data[i.K]
			continue
		case unix.BPF_RET | unix.BPF_K:
			return i.K
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			holds = a == i.K
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			holds = a >= i.K
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			holds = a&i.K != 0
		default:
			t.Fatalf("instruction %d: unknown code %#x", pc, i.Code)
		}
		if holds {
			pc += int(i.Jt)
		} else {
			pc += int(i.Jf)
		}
	}
	t.Fatal("the program ends without an answer")
	return 0
}
