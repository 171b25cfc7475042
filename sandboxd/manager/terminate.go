package manager

import (
	"context"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/lifecycle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/reconcile"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// Delete terminates a sandbox and removes its container. If the engine fails to remove the container, Delete
// still succeeds: the deletion is on record, and a later sweep removes the container.
func (m *Manager) Delete(ctx context.Context, name string) error {
	s, err := m.named(ctx, name)
	cancelled := err == nil && s != nil && s.creation.isUnderWay()
	if cancelled {
		s.creation.cancel() // if it is too late to cancel, find returns the sandbox
	}
	if s, err = m.find(ctx, name); err != nil {
		if cancelled && sandbox.KindOf(err) == sandbox.NotFound {
			return nil
		}
		return err
	}
	return m.finish(ctx, func(ctx context.Context) error {
		terminated, err := s.terminateIf(ctx, func(store.Sandbox) (store.Cause, string) {
			return store.CauseDeleted, "it was deleted at " + stamp(m.now())
		})
		if err == nil && !terminated {
			err = s.whyGone(ctx)
		}
		return err
	})
}

// terminateExpired terminates an expired sandbox. It does nothing if the TTL was extended in the meantime.
func (s *liveSandbox) terminateExpired(ctx context.Context) error {
	_, err := s.terminateIf(ctx, func(rec store.Sandbox) (store.Cause, string) {
		if s.m.now().Before(rec.ExpireTime) {
			return "", ""
		}
		return store.CauseExpired, reconcile.ExpiredReason(rec)
	})
	return err
}

// terminateDead terminates a sandbox whose container no longer runs. If the engine has no container for it, exists
// is false and c is empty.
func (s *liveSandbox) terminateDead(ctx context.Context, c engine.Container, exists bool) error {
	_, err := s.terminateIf(ctx, func(rec store.Sandbox) (store.Cause, string) {
		return reconcile.WhyDead(rec, c, exists, s.m.now())
	})
	return err
}

// terminateIf terminates a sandbox and removes its container. While it holds the Transition, it calls the
// parameter why with the current record to get the cause and the reason. If the cause is empty, or the sandbox
// was terminated already, terminateIf does nothing and returns false. The record is written before the container
// is removed. The caller must not hold the Transition.
func (s *liveSandbox) terminateIf(ctx context.Context, why func(store.Sandbox) (store.Cause, string)) (terminated bool, err error) {
	err = s.during(ctx, func(t *lifecycle.Transition) error {
		cause, reason := why(s.record())
		if cause == "" || t.State() == lifecycle.Terminated {
			return nil
		}
		terminated = true
		return s.terminate(t, cause, reason)
	})
	if err == nil && terminated {
		s.removeContainer()
	}
	return terminated, err
}

// terminateNow terminates a sandbox, starts the removal of its container in the background, and returns an error
// that states why it was terminated.
func (s *liveSandbox) terminateNow(ctx context.Context, t *lifecycle.Transition, cause store.Cause, reason string) error {
	if err := s.terminate(t, cause, reason); err != nil {
		return err
	}
	s.m.spawn(s.removeContainer)
	return s.whyGone(ctx)
}

// terminateIfDead terminates a sandbox whose container neither runs nor is suspended, and returns an error that
// states why it was terminated. It returns nil for any other sandbox, and the engine's error if the engine does
// not answer.
func (s *liveSandbox) terminateIfDead(ctx context.Context, t *lifecycle.Transition) error {
	containers, err := s.m.inspect(ctx)
	if err != nil {
		return err
	}
	c, exists := containers[s.id]
	if exists && (c.Running || c.Suspended) {
		return nil
	}
	cause, reason := reconcile.WhyDead(s.record(), c, exists, s.m.now())
	return s.terminateNow(ctx, t, cause, reason)
}

// terminate marks a sandbox as terminated on disk and in memory. It does not remove the container; the caller must
// call removeContainer for that. If the record cannot be written, the sandbox keeps its state.
func (s *liveSandbox) terminate(t *lifecycle.Transition, cause store.Cause, reason string) error {
	before := t.State()
	t.To(lifecycle.Terminating)
	rec := s.record()
	end := store.Termination{Cause: cause, Reason: reason, Time: s.m.now(), Used: rec.UsedTime, Executions: "its sandbox was terminated: " + reason}
	if err := s.m.store.TerminateSandbox(s.id, end); err != nil {
		t.To(before)
		return notRecorded(err)
	}
	rec.State, rec.Cause, rec.Reason, rec.EndTime = sandbox.Terminated, cause, reason, end.Time
	s.mu.Lock()
	s.rec = rec
	s.mu.Unlock()
	t.To(lifecycle.Terminated)
	s.reportLost(s.executions.RemoveExcept())
	s.close()
	s.log.Info("a sandbox was terminated", "cause", cause, "reason", reason)
	return nil
}

// removeContainer removes the container of a terminated sandbox. If the engine fails to remove it, a later sweep
// tries again. removeContainer does nothing if another call is removing the container already.
func (s *liveSandbox) removeContainer() {
	if !s.removing.CompareAndSwap(false, true) {
		return
	}
	defer s.removing.Store(false)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.m.ctx), removeTimeout)
	defer cancel()
	if err := s.m.engine.Remove(ctx, s.id); err != nil {
		s.log.Warn("a container could not be removed; the next sweep tries again", "error", err)
		return
	}
	s.markRemoved()
}

// markRemoved records that the container of a terminated sandbox does not exist any more. It removes the sandbox
// from the registry and releases its capacity and its uid.
func (s *liveSandbox) markRemoved() {
	s.m.store.SetContainerRemoved(s.id)
	s.m.registry.remove(s.id)
	s.m.capacity.Remove(s.id)
}
