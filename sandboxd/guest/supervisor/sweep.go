//go:build linux

package supervisor

import (
	"os"
	"syscall"
	"time"
)

// sweepTime bounds how long leftovers are looked for and killed one by one. The dying take a while
// to be gone when there are many.
const sweepTime = 5 * time.Second

// sweep kills what a dead kernel left behind: its session, and every other process of the
// kernels' user that is not in the session of a living kernel. What spawns faster than it can be
// found is ended by `guest sweep`, and then the other kernels with it: kill(-1) is atomic, and knows no exceptions.
func (s *Supervisor) sweep(k *kernel) {
	_ = syscall.Kill(-k.pid, syscall.SIGKILL)
	if _, all := s.killAll(func(process) bool { return true }); !all {
		s.sweepAll()
	}
}

// sweepSince kills what was started in a kernel's session, or out of it, since a moment: an execution that
// is stopped takes its subprocesses with it, those of earlier ones stay. It reports how many there were,
// and false if they spawn faster than they can be found.
func (s *Supervisor) sweepSince(k *kernel, since time.Time) (killed int, all bool) {
	from := k.startTick + int64(since.Sub(k.started)/tick)
	// One call stops all that did not leave the process group, a fork bomb included, so that there is peace
	// for looking at what is to go. The kernel and what is to stay go on afterwards.
	_ = syscall.Kill(-k.pid, syscall.SIGSTOP)
	defer syscall.Kill(-k.pid, syscall.SIGCONT)
	return s.killAll(func(p process) bool { return p.pid != k.pid && p.start >= from }, k.pid)
}

// killAll kills every process of the kernels' user that is wanted, until none is left. Those in the session
// of a living kernel are spared, unless it is one of the named.
func (s *Supervisor) killAll(wanted func(process) bool, sessions ...int) (killed int, all bool) {
	seen := map[int]bool{}
	for pause, end := time.Millisecond, time.Now().Add(sweepTime); time.Now().Before(end); pause = min(2*pause, 50*time.Millisecond) {
		spared := s.kernelSessions()
		for _, session := range sessions {
			delete(spared, session)
		}
		found := false
		for _, p := range processes(s.config.UID) {
			if spared[p.session] || p.zombie || !wanted(p) {
				continue
			}
			found, seen[p.pid] = true, true
			_ = syscall.Kill(p.pid, syscall.SIGKILL)
		}
		if !found {
			return len(seen), true
		}
		time.Sleep(pause)
	}
	return len(seen), false
}

// sweepAll kills every process of the kernels' user at once.
func (s *Supervisor) sweepAll() {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer null.Close()
	argv := []string{s.program, "sweep"}
	_, exited, err := s.reaper.start(argv, nil, "/", []*os.File{null, null, null}, &syscall.SysProcAttr{
		Setsid:     true,
		Credential: &syscall.Credential{Uid: uint32(s.config.UID), Gid: uint32(s.config.UID)},
	})
	if err == nil {
		<-exited
	}
}

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
