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

// A standby is a runsc process that was started in advance and waits for its arguments. Starting runsc takes 9 ms of
// CPU time. Without standbys, a resume would wait for one start of runsc, and a fork for two (checkpoint and restore).
type standby struct {
	*streams.Program
	arguments *os.File // the pipe to which the arguments are written, once
}

// standbyCommand is the last argument of a standby, in the place of a command of runsc (third_party/runsc). Older builds of
// runsc use the argument "standby" instead. The engine does not use them as standbys, because they don't confirm that they
// have read their arguments.
const standbyCommand = "stand-by"

// standbyCount is how many standbys the engine keeps. A fork uses two.
const standbyCount = 2

// standbys holds the waiting standbys, which are all of the same build.
type standbys struct {
	mu    sync.Mutex
	build string
	ready []*standby
}

// acquire returns a standby of this build, or nil if none is waiting. The caller then owns the standby.
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

// keepStandbys starts standbys of a build until standbyCount of them are waiting. It ends the standbys of other builds.
func (e *Engine) keepStandbys(build string) {
	l := &e.standbys
	for l.count(build) < standbyCount {
		s, err := e.makeStandby(e.ctx, build)
		if err != nil {
			return // without standbys, calls of runsc only take longer
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
