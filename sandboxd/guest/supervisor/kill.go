//go:build linux

package supervisor

import (
	"os"
	"strconv"
	"syscall"
	"time"
)

// killSearchTimeout bounds how long leftover processes are searched for and killed one by one. Many killed processes
// take a while to disappear.
const killSearchTimeout = 5 * time.Second

// killLeftovers kills the processes that a dead kernel left behind: its session, and every other process of the
// kernels' user that is not in the session of a living kernel. If there are many processes, or they start new ones
// faster than killLeftovers finds them, it kills every process of the user at once, including other kernels.
func (s *Supervisor) killLeftovers(k *kernel) {
	_ = syscall.Kill(-k.pid, syscall.SIGKILL)
	if s.nearProcessLimit() {
		_ = s.identity.killAll() // an error is ignored: s.killUntilGone below kills the processes that are left
	}
	if _, all := s.killUntilGone(anyProcess); !all {
		_ = s.identity.killAll() // an error is ignored, because nothing more can be done
	}
}

// nearProcessLimit reports whether the kernels' user has at least half of the processes that it may have, for example
// because of a fork bomb. While there are so many processes, reading /proc/PID/stat for each of them takes seconds.
func (s *Supervisor) nearProcessLimit() bool {
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
		if pid, err := strconv.Atoi(name); err != nil || !own && !ownedBy(pid, s.config.UID) {
			continue
		}
		if n++; n >= s.config.Processes/2 {
			return true
		}
	}
	return false
}

const (
	killWait         = 2 * time.Second        // how long a killed kernel may take to end before kill also kills other processes
	forkBombKillWait = 100 * time.Millisecond // killWait while a fork bomb runs
	sparingRounds    = 3                      // number of rounds in which kill spares the other kernels
)

// kill kills a kernel and returns when it is dead. If a process traces the kernel, the guest can't wait for the kernel
// until the tracer has ended. So kill also kills other processes of the kernels' user: first those that belong to no
// kernel, then all. During a fork bomb, kill kills all of them from the start and again after a short time, because
// under gVisor new processes escape a killAll.
func (s *Supervisor) kill(k *kernel) {
	for round := 0; ; round++ {
		k.signal(syscall.SIGKILL)
		maxWait := killWait
		switch {
		case s.nearProcessLimit():
			_ = s.identity.killAll()
			maxWait = forkBombKillWait
		case round > sparingRounds:
			_ = s.identity.killAll() // an error is ignored, because the next round calls killAll again
		case round > 0:
			s.killFound(anyProcess)
		}
		select {
		case <-k.exited:
			return
		case <-time.After(maxWait):
		}
	}
}

// killStartedSince kills the processes that a stopped execution started. These are the processes in the kernel's
// session, or in no living kernel's session, that started at the tick since (see procNow) or later. Processes of
// earlier executions are kept. killStartedSince returns how many processes it killed, and whether these were all: false
// means that processes start new ones faster than it finds them.
func (s *Supervisor) killStartedSince(k *kernel, since int64) (killed int, all bool) {
	// SIGSTOP stops all processes that did not leave the process group, including a fork bomb, so that they can't
	// start new ones during the search. SIGCONT then resumes the kernel and the processes that are kept. This does
	// not work under gVisor: if one member of a group ends while another is stopped, gVisor sends SIGHUP to all of
	// them. Linux does so only if the end made the group an orphan.
	if !onGVisor() {
		_ = syscall.Kill(-k.pid, syscall.SIGSTOP)
		defer syscall.Kill(-k.pid, syscall.SIGCONT)
	}
	return s.killUntilGone(func(p process) bool { return p.pid != k.pid && p.start >= since }, k.pid)
}

// killUntilGone kills every process of the kernels' user for which the function wanted returns true, until none is left
// or killSearchTimeout has passed. It spares processes in the session of a living kernel, unless the parameter sessions
// contains that session. It returns how many processes it killed, and whether none is left.
func (s *Supervisor) killUntilGone(wanted func(process) bool, sessions ...int) (killed int, all bool) {
	seen := map[int]bool{}
	for pause, end := time.Millisecond, time.Now().Add(killSearchTimeout); time.Now().Before(end); pause = min(2*pause, 50*time.Millisecond) {
		found := s.killFound(wanted, sessions...)
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
func (s *Supervisor) killFound(wanted func(process) bool, sessions ...int) (pids []int) {
	spared := s.kernelSessions()
	for _, session := range sessions {
		delete(spared, session)
	}
	for _, p := range processes(s.config.UID) {
		if spared[p.session] || p.zombie || !wanted(p) {
			continue
		}
		pids = append(pids, p.pid)
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
	}
	return pids
}

func anyProcess(process) bool { return true }

// kernelSessions returns the sessions of living kernels.
func (s *Supervisor) kernelSessions() map[int]bool {
	sessions := map[int]bool{}
	for _, l := range s.lanes {
		if k := l.live(); k != nil && !k.dead() {
			sessions[k.pid] = true
		}
	}
	return sessions
}
