package manager

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

const (
	answerTimeout = 15 * time.Second // for a guest to answer, beyond what it was asked to wait
	listTimeout   = 10 * time.Second // for the engine to say what it has
	secondLook    = 300 * time.Millisecond
)

// tries is how often a call to a guest may be sent.
type tries int

const (
	once  tries = 1
	twice tries = 2 // only what may arrive twice
)

// call asks a sandbox's guest something, and resumes it first if it sleeps: fn does, under a context with
// a deadline that ends with the sandbox too. A connection that breaks is dialled again if n allows; if
// that does not help, the error says what became of the sandbox.
func (m *Manager) call(ctx context.Context, b *box, timeout time.Duration, n tries, fn func(context.Context) error) error {
	for ; ; n-- {
		release, err := m.hold(ctx, b)
		if err != nil {
			return err
		}
		err = m.send(ctx, b, timeout, n, fn)
		release()
		if !errors.Is(err, errAsleep) || n == once || errors.Is(err, errBegun) {
			return err
		}
	}
}

// errAsleep is part of an error of a sandbox that was suspended unknown to us.
var errAsleep = errors.New("it was suspended")

// send is call to a sandbox that is held awake.
func (m *Manager) send(ctx context.Context, b *box, timeout time.Duration, n tries, fn func(context.Context) error) error {
	inner, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	defer context.AfterFunc(b.ctx, cancel)()
	for ; ; n-- {
		err := fn(inner)
		switch {
		case err == nil:
			return nil
		case answered(err):
			return err
		case b.ctx.Err() != nil:
			return m.whyGone(ctx, b)
		case ctx.Err() != nil:
			return ctx.Err()
		case inner.Err() == nil && n > once && !errors.Is(err, errBegun) && !errors.Is(err, context.DeadlineExceeded):
			b.log.Debug("a call to the guest is sent again", "error", err)
			continue
		}
		return m.diagnose(ctx, b, err)
	}
}

// errBegun is part of an error after which a call must not be sent again, though it
// usually may.
var errBegun = errors.New("part of the body was sent")

// answered reports whether err is the guest's own answer.
func answered(err error) bool {
	if _, ok := errors.AsType[*dialError](err); ok {
		return false
	}
	_, ok := errors.AsType[*sandbox.Error](err)
	return ok
}

// diagnose explains why a guest cannot be reached. If the sandbox turns out to be dead, it
// is terminated.
func (m *Manager) diagnose(ctx context.Context, b *box, cause error) error {
	b.log.Warn("the guest does not answer", "error", cause)
	for look := 0; ; look++ {
		containers, err := m.inspect(ctx)
		if err != nil {
			return err
		}
		c, there := containers[b.id]
		if there && c.Suspended {
			b.fellAsleep()
			return sandbox.Errorf(sandbox.Unavailable, "sandbox %s was suspended just now: try again", b.id).WithCause(errors.Join(errAsleep, cause))
		}
		if !there || !c.Running {
			if err := m.finish(ctx, func(ctx context.Context) error { return m.endDead(ctx, b, c, there) }); err != nil && b.alive() {
				return err
			}
			return m.whyGone(ctx, b)
		}
		if look > 0 {
			return sandbox.Errorf(sandbox.Unavailable, "sandbox %s runs, but does not answer: try again, or delete it if it stays so", b.id).WithCause(cause)
		}
		// It may be dying just now.
		select {
		case <-time.After(secondLook):
		case <-b.ctx.Done():
			return m.whyGone(ctx, b)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// whyGone explains that a sandbox has ended under a call, or the manager has.
func (m *Manager) whyGone(ctx context.Context, b *box) error { return m.whyEnded(ctx, b.id) }

// whyEnded is like whyGone, for a sandbox's id.
func (m *Manager) whyEnded(ctx context.Context, id sandbox.ID) error {
	rec, err := m.Store.Sandbox(context.WithoutCancel(ctx), id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return noSandbox(string(id))
	case err != nil:
		return err
	case rec.State != sandbox.Terminated:
		return errStopping()
	}
	return gone(rec)
}

// inspection is the last list of containers.
type inspection struct {
	mu         sync.Mutex
	began      time.Time
	containers map[sandbox.ID]engine.Container
	err        error
}

// inspect asks the engine what it has. Of many who ask at once, one goes.
func (m *Manager) inspect(ctx context.Context) (map[sandbox.ID]engine.Container, error) {
	asked := time.Now()
	in := &m.inspection
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.began.After(asked) {
		return in.containers, in.err
	}
	in.began = time.Now()
	list, cancel := context.WithTimeout(m.ctx, listTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	all, err := m.Engine.List(list)
	in.containers, in.err = nil, nil
	if err != nil {
		if ctx.Err() != nil {
			in.began = time.Time{} // the next one asks for itself
			return nil, ctx.Err()
		}
		if opener, ok := m.Engine.(engine.Opener); ok && opener.Open(list) != nil {
			in.err = err // the engine could not be opened, and the error contains the reason and the remedy
			return nil, err
		}
		in.err = sandbox.Errorf(sandbox.Unavailable, "the %s engine does not answer; the sandboxes may still be there: try again", m.Engine.Info().Name).WithCause(err)
		return nil, in.err
	}
	in.containers = make(map[sandbox.ID]engine.Container, len(all))
	for _, c := range all {
		in.containers[c.ID] = c
	}
	return in.containers, nil
}
