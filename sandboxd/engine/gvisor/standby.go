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

// A standby is a runsc that has started ahead and waits to be told what to do. To start, it needs 9 ms of a CPU, which
// who wakes a sandbox would wait for, and who copies one twice (checkpoint, restore).
type standby struct {
	*streams.Program
	arguments *os.File // to be written once
}

// standbyCommand is in place of a command, and is the last argument (third_party/runsc).
const standbyCommand = "stand-by" // not "standby": a build that knows that one says nothing when it has its arguments

// standbyCount is as many as the copy of a sandbox takes.
const standbyCount = 2

// standbys are those that wait. All are of one build.
type standbys struct {
	mu    sync.Mutex
	build string
	ready []*standby
}

// take returns one, if there is one of that build. It is the caller's now.
func (l *standbys) take(build string) *standby {
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

// tell has a standby do as runsc with these arguments, unless it ends before it has read them: it says when it has.
func (s *standby) tell(args []string) bool {
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

// keepStandbys makes as many as there may be, of one build.
func (e *Engine) keepStandbys(build string) {
	l := &e.standbys
	for l.count(build) < standbyCount {
		s, err := e.makeStandby(e.ctx, build)
		if err != nil {
			return // without one, calls are slower
		}
		l.mu.Lock()
		l.ready = append(l.ready, s)
		l.mu.Unlock()
	}
}

// makeStandby returns one that says that it waits: a runsc that is not ours can't.
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

// count returns how many there are of a build, of which all are from now on.
func (l *standbys) count(build string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.build != build {
		l.drop()
		l.build = build
	}
	return len(l.ready)
}

// drop ends those that wait, with mu held. They end by themselves when nobody can tell them anything any more.
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
