package manager

import (
	"context"
	"errors"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/lifecycle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// resumeTimeout is how long the engine may take to resume a sandbox.
const resumeTimeout = time.Minute

// startResume resumes the sandbox in the background and then calls done with the result, for which callers of
// acquire wait.
func (s *liveSandbox) startResume(done func(error)) {
	resume := func() {
		ctx := s.m.ctx
		err := s.during(ctx, func(t *lifecycle.Transition) error { return s.resume(ctx, t) })
		if err != nil && ctx.Err() != nil {
			err = sandbox.ErrStopping
		}
		done(err)
	}
	if !s.m.spawn(resume) {
		done(sandbox.ErrStopping)
	}
}

// resume resumes a suspended sandbox, and does nothing if it is running. On failure the sandbox remains
// suspended, or is terminated if it can never be resumed.
func (s *liveSandbox) resume(ctx context.Context, t *lifecycle.Transition) error {
	switch {
	case t.State() == lifecycle.Running:
		return nil
	case t.State() != lifecycle.Suspended:
		return s.whyGone(ctx)
	case !s.m.now().Before(s.expires()):
		s.m.expiryMoved()
		return expired(s.id, s.expires())
	}
	suspender, err := optional[engine.Suspender](ctx, s.m)
	if err != nil {
		return err
	}
	if suspender == nil {
		return sandbox.Errorf(sandbox.Unavailable, "sandbox %s is suspended, and the %s engine cannot resume it: start Dormouse with the engine that suspended it", s.id, s.m.engine.Info().Name)
	}
	start := time.Now()
	t.To(lifecycle.Resuming)
	if err := s.restore(ctx, suspender); err != nil {
		t.To(lifecycle.Suspended)
		if failure, ok := errors.AsType[*resumeError](err); ok {
			return s.notResumed(ctx, t, failure.cause)
		}
		return err
	}
	s.enterRunning(ctx, t)
	s.log.Info("a sandbox was resumed", "took", time.Since(start))
	return nil
}

// resumeError means that the engine failed to resume a sandbox.
type resumeError struct{ cause error }

func (e *resumeError) Error() string { return "resume: " + e.cause.Error() }

// restore restores the container of a suspended sandbox and records that the sandbox is running. After an error
// that is not a resumeError, the container may be running; calling restore again is harmless then.
func (s *liveSandbox) restore(ctx context.Context, suspender engine.Suspender) error {
	if err := s.recordRewind(ctx); err != nil {
		return err
	}
	if err := s.acquireCapacity(ctx); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, resumeTimeout)
	defer cancel()
	if err := suspender.Resume(limited, s.id); err != nil {
		s.m.capacity.SetRunning(s.id, false)
		return &resumeError{err}
	}
	if err := s.reportRewind(ctx); err != nil {
		return err
	}
	if s.record().State != sandbox.Running {
		if err := s.m.store.SetState(s.id, sandbox.Running); err != nil {
			return notRecorded(err)
		}
	}
	return nil
}

// enterRunning makes a sandbox usable for calls after its container has been resumed and its record has been set
// to running. The state must be Resuming.
func (s *liveSandbox) enterRunning(ctx context.Context, t *lifecycle.Transition) {
	s.guest.Close() // close old connections, so that the next call dials a new one
	s.mu.Lock()
	s.rec.State, s.rec.Rewound.Unreported = sandbox.Running, false
	s.suspendBackoff, s.checkpointBackoff = backoff{}, backoff{}
	s.mu.Unlock()
	s.m.capacity.SetRunning(s.id, true)
	t.To(lifecycle.Running)
	if !s.guestHasExpiry() {
		s.setGuestExpiry(ctx)
	}
}

// notResumed returns the error to report after the engine failed to resume a sandbox. It terminates the sandbox
// if it can never be resumed.
func (s *liveSandbox) notResumed(ctx context.Context, t *lifecycle.Transition, cause error) error {
	if s.m.ctx.Err() != nil {
		return sandbox.ErrStopping
	}
	s.log.Error("a sandbox could not be resumed", "error", cause)
	if sandbox.KindOf(cause) == sandbox.Expired {
		return s.terminateNow(ctx, t, store.CauseLost, sandbox.Public(cause).Message+", and its variables and files are lost")
	}
	if err := s.terminateIfDead(ctx, t); err != nil {
		return err
	}
	why := "try again"
	if known, ok := errors.AsType[*sandbox.Error](cause); ok {
		why = known.Message
	}
	return sandbox.Errorf(sandbox.Unavailable, "sandbox %s could not be resumed, and nothing of it is lost: %s", s.id, why).WithCause(cause)
}
