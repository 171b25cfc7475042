//go:build linux

package process

import (
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"
)

// startSleep starts a process of the user uid in its own session, and returns its pid and a channel that is closed when
// the process has ended.
func startSleep(t *testing.T, uid int) (pid int, ended <-chan struct{}) {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}, Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := make(chan struct{})
	go func() { _ = cmd.Wait(); close(c) }()
	t.Cleanup(func() { cmd.Process.Kill(); <-c })
	return cmd.Process.Pid, c
}

// wantEnded fails the test unless a process has ended by a signal that was sent before.
func wantEnded(t *testing.T, name string, ended <-chan struct{}) {
	t.Helper()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Errorf("the %s still runs after a minute, want it killed", name)
	}
}

func pids(uid int) (pids []int) {
	for _, p := range List(uid) {
		if !p.Zombie {
			pids = append(pids, p.PID)
		}
	}
	slices.Sort(pids)
	return pids
}

// TestNearLimitCountsOnlyTheKernelsUser checks that processes of other users do not count. They are visible if the
// sandbox shares a process namespace.
func TestNearLimitCountsOnlyTheKernelsUser(t *testing.T) {
	needRoot(t)
	const uid, limit = 309_999, 4
	k := NewKiller(User{uid: uid, gid: uid}, limit, nil)
	for owned, want := range []bool{false, false, true} {
		if got := k.NearLimit(); got != want {
			t.Errorf("NearLimit() = %t with %d processes of the kernels' user and a limit of %d, want %t", got, owned, limit, want)
		}
		startSleep(t, uid)
	}
}

// TestKillStartedSince checks that processes of an execution are killed, and that the kernel, processes of earlier
// executions and other kernels are not.
func TestKillStartedSince(t *testing.T) {
	needRoot(t)
	const uid = 309_997
	other, _ := startSleep(t, uid)
	k := NewKiller(User{uid: uid, gid: uid}, 1000, func() map[int]bool { return map[int]bool{other: true} })
	kernel, _ := startSleep(t, uid)
	early, _ := startSleep(t, uid)
	// Now can be two ticks behind the clock of Process.Start. Wait until it is later than the start of the early
	// process, because otherwise KillStartedSince would kill that process too.
	began := Now()
	for p, _ := Read(early); began <= p.Start; began = Now() {
		time.Sleep(tick)
	}
	late, lateEnded := startSleep(t, uid)
	killed, all := k.KillStartedSince(kernel, began)
	if killed != 1 || !all {
		t.Errorf("KillStartedSince() = %d, %t, want 1, true", killed, all)
	}
	wantEnded(t, "process of the execution", lateEnded)
	want := []int{other, kernel, early}
	slices.Sort(want)
	if got := pids(uid); !slices.Equal(got, want) {
		t.Errorf("processes = %v, want %v: the other kernel, the kernel and the earlier process, but not %d", got, want, late)
	}
}

// TestKillSparesOtherKernels checks that Kill and KillStrays spare the other kernels. Kill must return when its kernel
// is dead. KillStrays must then kill the process that belongs to no kernel.
func TestKillSparesOtherKernels(t *testing.T) {
	needRoot(t)
	const uid = 309_996
	other, _ := startSleep(t, uid)
	k := NewKiller(User{uid: uid, gid: uid}, 1000, func() map[int]bool { return map[int]bool{other: true} })
	kernel, ended := startSleep(t, uid)
	_, strayEnded := startSleep(t, uid)
	k.Kill(kernel, ended)
	counted := 0
	if !k.KillStrays(func() { counted++ }) || counted != 1 {
		t.Errorf("KillStrays() counted %d processes, want 1", counted)
	}
	wantEnded(t, "stray process", strayEnded)
	if got := pids(uid); !slices.Equal(got, []int{other}) {
		t.Errorf("processes = %v, want only the other kernel %d", got, other)
	}
}
