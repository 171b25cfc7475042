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
	answerTimeout = 15 * time.Second       // time for a guest to answer, without the time that the request asks it to wait
	listTimeout   = 10 * time.Second       // time for the engine to list its containers
	secondLook    = 300 * time.Millisecond // delay before diagnose asks the engine again
)

// tries is how often a call may be sent to a guest.
type tries int

const (
	once  tries = 1
	twice tries = 2 // only for calls that are safe to repeat
)

// call resumes the sandbox if it is suspended, and then calls fn to send a request to the guest. The context of
// fn ends after timeout, with ctx, or when the sandbox is terminated. If the connection breaks, or the engine
// suspended the sandbox in the meantime, call runs fn again, but at most as often as the parameter n allows. If
// the last attempt fails too, call returns an error that states the condition of the sandbox. The caller must
// not hold b.life.
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

// errAsleep is in the chain of the error of a call whose sandbox the engine has suspended without a request
// from this manager.
var errAsleep = errors.New("it was suspended")

// send is like call, but the caller must already hold the sandbox with hold or holdAwake.
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

// errBegun is in the chain of the error of a call that must not be repeated, even if its tries allow it, because
// part of the body of its request has been sent.
var errBegun = errors.New("part of the body was sent")

// answered reports whether err is an answer from the guest, and not a failure to reach it.
func answered(err error) bool {
	if _, ok := errors.AsType[*dialError](err); ok {
		return false
	}
	_, ok := errors.AsType[*sandbox.Error](err)
	return ok
}

// diagnose returns an error that explains why the guest did not answer. It asks the engine for the state of the
// container, and terminates the sandbox if its container has stopped or is gone. The caller must not hold
// b.life.
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
		// The container may be about to stop, so ask the engine once more after secondLook.
		select {
		case <-time.After(secondLook):
		case <-b.ctx.Done():
			return m.whyGone(ctx, b)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// whyGone returns the error of a call during which the sandbox was terminated or the manager was closed.
func (m *Manager) whyGone(ctx context.Context, b *box) error { return m.whyEnded(ctx, b.id) }

// whyEnded is like whyGone, but takes the id of the sandbox.
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

// inspection is the latest list of containers. mu guards the other fields, and is held while the engine makes
// the list.
type inspection struct {
	mu         sync.Mutex
	began      time.Time
	containers map[sandbox.ID]engine.Container
	err        error
}

// inspect returns the engine's containers. A caller can share the result of another caller's request to the
// engine, but only if that request was sent after the caller called inspect. Callers must not change the map,
// because they share it.
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
			in.began = time.Time{} // the request failed because this caller's ctx ended, so the next caller sends its own
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
