//go:build linux

package process

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// Reaper makes all wait4 calls of this process. As PID 1, the guest inherits every orphan of the sandbox. A second
// waiter (os/exec) would compete with the reaper for exit statuses, so the guest starts every program with
// [Reaper.Start].
type Reaper struct {
	mu      sync.Mutex // held from the fork until the map waiting contains the process, so that reap can't miss its exit
	waiting map[int]chan syscall.WaitStatus
}

// NewReaper returns a reaper that runs until the guest ends. A process may have only one.
func NewReaper() *Reaper {
	r := &Reaper{waiting: map[int]chan syscall.WaitStatus{}}
	sigchld := make(chan os.Signal, 1)
	signal.Notify(sigchld, syscall.SIGCHLD)
	go func() {
		for range sigchld {
			r.reap()
		}
	}()
	return r
}

// reap collects the statuses of all processes that have ended. One SIGCHLD may stand for several of them.
func (r *Reaper) reap() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		r.mu.Lock()
		if c := r.waiting[pid]; c != nil {
			delete(r.waiting, pid)
			c <- status
		}
		r.mu.Unlock()
	}
}

// Start runs a program as root in its own session, with files as its descriptors 0, 1, … The channel exited receives the exit
// status of the program once. No program may be started as the kernels' user: ForkExec returns only when the new
// process has executed the program, and code in the sandbox could stop the process before that.
func (r *Reaper) Start(argv, env []string, files []*os.File) (pid int, exited <-chan syscall.WaitStatus, err error) {
	fds := make([]uintptr, len(files))
	for i, f := range files {
		fds[i] = f.Fd()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err = syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{Dir: "/", Env: env, Files: fds, Sys: &syscall.SysProcAttr{Setsid: true}})
	if err != nil {
		return 0, nil, err
	}
	c := make(chan syscall.WaitStatus, 1)
	r.waiting[pid] = c
	return pid, c, nil
}
