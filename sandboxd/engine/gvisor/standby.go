package gvisor

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/streams"
	"github.com/dormouse-sandbox/dormouse/sandboxd/stdio"
)

// A standby is a runsc process that was started in advance and waits for its arguments. Starting runsc takes 9 ms of CPU
// time. Without a standby, a resume would wait for that once, and a fork twice (checkpoint, restore).
type standby struct {
	*streams.Program
	arguments *os.File // the pipe for the arguments, which are written once
}

// standbyCommand is the last argument of a standby, instead of a command of runsc (third_party/runsc).
const standbyCommand = "stand-by" // an older build has "standby" instead, and does not confirm that it has read its arguments

// standbyCount is how many standbys the engine keeps: as many as a fork uses.
const standbyCount = 2

// standbys holds the waiting standbys, which are all of the same build.
type standbys struct {
	mu    sync.Mutex
	build string
	ready []*standby
}

// acquire returns a standby of that build, or nil if none is waiting. The standby then belongs to the caller.
func (l *standbys) acquire(build string) *standby {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.build != build || len(l.ready) == 0 {
		return nil
	}
	last := len(l.ready) - 1
	s := l.ready[last]
	l.ready = l.ready[:last]
	return s
}

// sendArguments sends the arguments of a call to a standby, which then runs like any other runsc process. It returns true
// when the standby has confirmed that it has read them. Otherwise it kills and closes the standby, and returns false.
func (s *standby) sendArguments(args []string) bool {
	err := json.NewEncoder(s.arguments).Encode(args)
	s.arguments.Close()
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), runscTimeout)
		defer cancel()
		err = stdio.AwaitJoined(ctx, s)
	}
	if err != nil {
		s.Kill()
		s.Close()
	}
	return err == nil
}

// keepStandbys starts standbys of a build until standbyCount of them wait. It ends those of other builds.
func (e *Engine) keepStandbys(build string) {
	l := &e.standbys
	for l.count(build) < standbyCount {
		s, err := e.makeStandby(e.ctx, build)
		if err != nil {
			return // calls of runsc are slower then
		}
		l.mu.Lock()
		l.ready = append(l.ready, s)
		l.mu.Unlock()
	}
}

// makeStandby starts a standby, and waits until the standby confirms that it is ready. It fails for gVisor's own runsc,
// which can't wait for its arguments.
func (e *Engine) makeStandby(ctx context.Context, build string) (*standby, error) {
	theirs, arguments, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd := e.command(build, standbyCommand)
	cmd.ExtraFiles = []*os.File{theirs}
	s, err := streams.Start(cmd)
	if err != nil {
		return nil, errors.Join(err, arguments.Close())
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := stdio.AwaitJoined(ctx, s); err != nil {
		return nil, errors.Join(err, arguments.Close())
	}
	return &standby{s, arguments}, nil
}

// count returns how many standbys of a build are waiting. If the standbys are of another build, it ends them first, and
// l holds standbys of this build from then on.
func (l *standbys) count(build string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.build != build {
		l.drop()
		l.build = build
	}
	return len(l.ready)
}

// drop ends all waiting standbys, and returns when they have ended. A standby exits when the pipe for its arguments is
// closed. The caller must hold l.mu.
func (l *standbys) drop() {
	for _, s := range l.ready {
		s.arguments.Close()
		s.Close()
	}
	for _, s := range l.ready {
		<-s.Ended()
	}
	l.ready = nil
}

func (l *standbys) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop()
}
