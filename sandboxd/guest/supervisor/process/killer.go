//go:build linux

package process

import (
	"os"
	"strconv"
	"syscall"
	"time"
)

// Killer kills kernels, and processes that kernels have started. Its methods may be called concurrently.
type Killer struct {
	user     User
	limit    int
	sessions func() map[int]bool
}

// NewKiller returns a killer for the processes of user, which may have at most limit processes and threads. The function
// sessions must return a new map with the sessions of the living kernels: their processes are spared.
func NewKiller(user User, limit int, sessions func() map[int]bool) *Killer {
	return &Killer{user: user, limit: limit, sessions: sessions}
}

// searchTimeout bounds how long leftover processes are searched for and killed one by one. Many killed processes take a
// while to disappear.
const searchTimeout = 5 * time.Second

// KillLeftovers kills the processes that the dead kernel pid left behind: its session, and every other process of the
// kernels' user that is not in the session of a living kernel. If there are many processes, or they start new ones
// faster than KillLeftovers finds them, it kills every process of the user at once, including other kernels.
func (k *Killer) KillLeftovers(pid int) {
	_ = syscall.Kill(-pid, syscall.SIGKILL)
	if k.NearLimit() {
		_ = k.user.KillAll() // an error is ignored: killUntilGone below kills the processes that are left
	}
	if _, all := k.killUntilGone(anyProcess); !all {
		_ = k.user.KillAll() // an error is ignored, because nothing more can be done
	}
}

// NearLimit reports whether the kernels' user has at least half of the processes that it may have, for example because
// of a fork bomb. While there are so many processes, reading /proc/PID/stat for each of them takes seconds.
func (k *Killer) NearLimit() bool {
	dir, err := os.Open("/proc")
	if err != nil {
		return false
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	// If the sandbox has its own process namespace (the guest is PID 1), nearly every process belongs to the kernels'
	// user, so all are counted. Reading the owner of each process would slow down the end of a fork bomb under gVisor.
	own := os.Getpid() == 1
	n := 0
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err != nil || !own && !ownedBy(pid, k.user.uid) {
			continue
		}
		if n++; n >= k.limit/2 {
			return true
		}
	}
	return false
}

const (
	killWait         = 2 * time.Second        // how long a killed kernel may take to end before Kill also kills other processes
	forkBombKillWait = 100 * time.Millisecond // killWait while a fork bomb runs
	sparingRounds    = 3                      // number of rounds after the first in which Kill spares the other kernels
)

// Kill kills the kernel pid and its process group, and returns when the channel exited is closed, which must happen when
// the kernel is dead. If a process traces the kernel, the guest can't wait for the kernel until the tracer has ended. So
// Kill also kills other processes of the kernels' user: first those that belong to no kernel, then all. During a fork
// bomb, Kill kills all of them from the start and again after a short time, because under gVisor new processes escape a
// KillAll.
func (k *Killer) Kill(pid int, exited <-chan struct{}) {
	for round := 0; ; round++ {
		select {
		case <-exited: // the pid may belong to another process now
		default:
			_ = syscall.Kill(-pid, syscall.SIGKILL)
		}
		maxWait := killWait
		switch {
		case k.NearLimit():
			_ = k.user.KillAll()
			maxWait = forkBombKillWait
		case round > sparingRounds:
			_ = k.user.KillAll() // an error is ignored, because the next round calls KillAll again
		case round > 0:
			k.killFound(anyProcess)
		}
		select {
		case <-exited:
			return
		case <-time.After(maxWait):
		}
	}
}

// KillStartedSince kills the processes that a stopped execution of the living kernel pid started. These are the
// processes in the kernel's session, or in no living kernel's session, whose start is not before the tick since (see
// [Now]). Processes of earlier executions are kept. KillStartedSince returns how many processes it killed, and whether
// none is left. If one is left, processes start new ones faster than KillStartedSince finds them.
func (k *Killer) KillStartedSince(pid int, since int64) (killed int, all bool) {
	// SIGSTOP stops all processes that did not leave the process group, including a fork bomb, so that they can't
	// start new ones during the search. SIGCONT then resumes the kernel and the processes that are kept. This does
	// not work under gVisor: if one member of a group ends while another is stopped, gVisor sends SIGHUP to all of
	// them. Linux does so only if the end made the group an orphan.
	if !OnGVisor() {
		_ = syscall.Kill(-pid, syscall.SIGSTOP)
		defer syscall.Kill(-pid, syscall.SIGCONT)
	}
	return k.killUntilGone(func(p Process) bool { return p.PID != pid && p.Start >= since }, pid)
}

// KillStrays kills the processes of the kernels' user that belong to no living kernel, and reports whether there were
// any. Before each kill, it calls the function that is passed as before.
func (k *Killer) KillStrays(before func()) bool {
	return len(k.killFound(func(Process) bool { before(); return true })) > 0
}

// killUntilGone kills every process of the kernels' user for which the parameter wanted, a function, returns true,
// until none is left or searchTimeout has passed. It spares processes in the session of a living kernel, unless the
// parameter sessions contains that session. It returns how many processes it killed, and whether none is left.
func (k *Killer) killUntilGone(wanted func(Process) bool, sessions ...int) (killed int, all bool) {
	seen := map[int]bool{}
	for pause, end := time.Millisecond, time.Now().Add(searchTimeout); time.Now().Before(end); pause = min(2*pause, 50*time.Millisecond) {
		found := k.killFound(wanted, sessions...)
		if len(found) == 0 {
			return len(seen), true
		}
		for _, pid := range found {
			seen[pid] = true
		}
		time.Sleep(pause)
	}
	return len(seen), false
}

// killFound is one round of killUntilGone. It returns the pids of the processes that it killed.
func (k *Killer) killFound(wanted func(Process) bool, sessions ...int) (pids []int) {
	spared := k.sessions()
	for _, session := range sessions {
		delete(spared, session)
	}
	for _, p := range List(k.user.uid) {
		if spared[p.Session] || p.Zombie || !wanted(p) {
			continue
		}
		pids = append(pids, p.PID)
		_ = syscall.Kill(p.PID, syscall.SIGKILL)
	}
	return pids
}

func anyProcess(Process) bool { return true }
