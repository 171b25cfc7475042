package manager

import (
	"context"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/lifecycle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Update changes a sandbox's display name and its TTL. The new TTL counts from the time of the call. The caller must
// have validated req.
func (m *Manager) Update(ctx context.Context, name string, req sandbox.UpdateRequest) (sandbox.Sandbox, error) {
	s, err := m.find(ctx, name)
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	err = m.finish(ctx, func(ctx context.Context) error {
		return s.during(ctx, func(t *lifecycle.Transition) error { return s.update(ctx, t, req) })
	})
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	return m.view(s.record()), nil
}

// update does the work of Update.
func (s *liveSandbox) update(ctx context.Context, t *lifecycle.Transition, req sandbox.UpdateRequest) error {
	if t.State() == lifecycle.Terminated {
		return s.whyGone(ctx)
	}
	rec := s.record()
	if req.DisplayName != nil {
		rec.DisplayName = *req.DisplayName
	}
	if req.TTL != nil {
		rec.ExpireTime = s.m.now().Add(time.Duration(*req.TTL))
	}
	if err := s.m.store.UpdateSandbox(s.id, rec.DisplayName, rec.ExpireTime); err != nil {
		return notRecorded(err)
	}
	s.mu.Lock()
	s.rec.DisplayName, s.rec.ExpireTime = rec.DisplayName, rec.ExpireTime
	s.mu.Unlock()
	if req.TTL != nil {
		s.m.expiryMoved()
		s.updateGuestExpiry(ctx, t)
	}
	return nil
}

// updateGuestExpiry sets the expiry in the guest of a running sandbox to the recorded one. If that fails, a later
// sweep tries again. In any other state it does nothing, because enterRunning sets the expiry after the next
// resume.
func (s *liveSandbox) updateGuestExpiry(ctx context.Context, t *lifecycle.Transition) {
	if t.State() == lifecycle.Running {
		s.setGuestExpiry(ctx)
	}
}

// setGuestExpiry sets the expiry in the guest to the recorded one, and reports whether it succeeded. It does not
// call diagnose after a failure, because diagnose may terminate the sandbox and would then wait for the Transition.
// The caller must hold the Transition, and the container must run.
func (s *liveSandbox) setGuestExpiry(ctx context.Context) bool {
	expires := s.expires()
	s.mu.Lock()
	s.guestExpiry = time.Time{}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	if err := s.guest.SetExpiry(ctx, expires); err != nil {
		s.log.Warn("the expiry could not be set in the guest; the next sweep tries again", "error", err)
		return false
	}
	s.mu.Lock()
	s.guestExpiry, s.changed = expires, true // the last checkpoint contains the old expiry, so a new checkpoint is needed
	s.mu.Unlock()
	return true
}

// guestHasExpiry reports whether the guest has the recorded expiry. A guest with an outdated expiry could terminate
// the sandbox when it is resumed, so such a sandbox is not suspended.
func (s *liveSandbox) guestHasExpiry() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.guestExpiry.Equal(s.rec.ExpireTime)
}
