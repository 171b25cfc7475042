package manager

import (
	"context"
	"errors"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/lifecycle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

const (
	answerTimeout = 15 * time.Second       // time for an answer of the guest, in addition to the time that the request asks it to wait
	secondLook    = 300 * time.Millisecond // delay before diagnose asks the engine again
)

// tries limits how often a call is sent to a guest.
type tries int

const (
	once  tries = 1
	twice tries = 2 // only for calls that are safe to repeat
)

// call resumes the sandbox if it is suspended, and then calls fn to send a request to the guest. The context of fn
// ends after timeout, with ctx, or when the sandbox is terminated or the manager is closed. If n is once, call runs
// fn once. If n is twice, call runs fn again if it fails without an answer of the guest, except after a timeout,
// and again if the engine suspended the sandbox in the meantime. It does not run fn again if the error wraps
// errBegun. If the last attempt fails, call returns an error that states the condition of the sandbox. The caller
// must not hold the Transition.
func (s *liveSandbox) call(ctx context.Context, timeout time.Duration, n tries, fn func(context.Context) error) error {
	for ; ; n-- {
		release, err := s.acquire(ctx)
		if err != nil {
			return err
		}
		err = s.send(ctx, timeout, n, fn)
		release()
		if !errors.Is(err, errSuspended) || n == once || errors.Is(err, errBegun) {
			return err
		}
	}
}

// errSuspended is wrapped in the error of a call if the engine has suspended the sandbox without a request from this
// manager.
var errSuspended = errors.New("the engine suspended the sandbox")

// errBegun is wrapped in the error of a call that must not be repeated because part of its request's body has been
// sent.
var errBegun = errors.New("part of the body was sent")

// send is like call, but the caller must already have acquired the sandbox, and send does not resume it. If the
// engine has suspended the sandbox, the error wraps errSuspended.
func (s *liveSandbox) send(ctx context.Context, timeout time.Duration, n tries, fn func(context.Context) error) error {
	inner, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	for ; ; n-- {
		err := fn(inner)
		switch {
		case err == nil:
			return nil
		case isAnswer(err):
			return err
		case s.ctx.Err() != nil:
			return s.whyGone(ctx)
		case ctx.Err() != nil:
			return ctx.Err()
		case inner.Err() == nil && n > once && !errors.Is(err, errBegun) && !errors.Is(err, context.DeadlineExceeded):
			s.log.Debug("a call to the guest is sent again", "error", err)
			continue
		}
		return s.diagnose(ctx, err)
	}
}

// isAnswer reports whether err is an answer from the guest, and not a failure to reach it.
func isAnswer(err error) bool {
	if _, ok := errors.AsType[*dialError](err); ok {
		return false
	}
	_, ok := errors.AsType[*sandbox.Error](err)
	return ok
}

// diagnose returns an error that explains why the guest did not answer. It asks the engine for the state of the
// container. If the engine has suspended the container, diagnose records that. If the container has stopped or does
// not exist, diagnose terminates the sandbox. The caller must not hold the Transition.
func (s *liveSandbox) diagnose(ctx context.Context, cause error) error {
	s.log.Warn("the guest does not answer", "error", cause)
	for look := 0; ; look++ {
		containers, err := s.m.inspect(ctx)
		if err != nil {
			return err
		}
		c, exists := containers[s.id]
		if exists && c.Suspended {
			if err := s.m.finish(ctx, s.adopt); err != nil {
				if s.life.State() == lifecycle.Running {
					return err
				}
				s.log.Warn("the state of a sandbox could not be recorded; its next resume records it", "error", err)
			}
			return sandbox.Errorf(sandbox.Unavailable, "sandbox %s was suspended just now: try again", s.id).WithCause(errors.Join(errSuspended, cause))
		}
		if !exists || !c.Running {
			if err := s.m.finish(ctx, func(ctx context.Context) error { return s.terminateDead(ctx, c, exists) }); err != nil && !s.isTerminated() {
				return err
			}
			return s.whyGone(ctx)
		}
		if look > 0 {
			return sandbox.Errorf(sandbox.Unavailable, "sandbox %s is running but does not answer: try again, and delete it if it still does not answer", s.id).WithCause(cause)
		}
		// The container may be about to stop, so ask the engine once more after secondLook.
		select {
		case <-time.After(secondLook):
		case <-s.ctx.Done():
			return s.whyGone(ctx)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// whyGone returns the error of a call during which the sandbox was terminated or the manager was closed.
func (s *liveSandbox) whyGone(ctx context.Context) error { return s.m.whyGone(ctx, s.id) }

// whyGone is like liveSandbox.whyGone, for a sandbox that may have been removed from the registry.
func (m *Manager) whyGone(ctx context.Context, id sandbox.ID) error {
	rec, err := m.store.Sandbox(context.WithoutCancel(ctx), id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return noSandbox(string(id))
	case err != nil:
		return err
	case rec.State != sandbox.Terminated:
		return sandbox.ErrStopping
	}
	return gone(rec)
}
