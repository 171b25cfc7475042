package manager

import (
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/lifecycle"
)

// The shortest and the longest delay before a failed suspend, checkpoint or snapshot is tried again.
const (
	firstBackoff = time.Minute
	lastBackoff  = time.Hour
)

// backoff is the delay before a failed operation is tried again. It doubles with each failure in a row, from
// firstBackoff to lastBackoff. The caller must hold the lock that guards it.
type backoff struct {
	until time.Time
	delay time.Duration
}

// elapsed reports whether the delay has passed, so that the operation may be tried again.
func (b *backoff) elapsed() bool { return !time.Now().Before(b.until) }

// fail starts the delay after a failure and returns its length.
func (b *backoff) fail() time.Duration {
	b.delay = min(max(2*b.delay, firstBackoff), lastBackoff)
	b.until = time.Now().Add(b.delay)
	return b.delay
}

// idleLoop suspends sandboxes that have been idle for IdleSuspend, and checkpoints running sandboxes that have
// been idle for CheckpointEvery, if the engine supports that.
func (m *Manager) idleLoop() {
	every := clockCheck
	for _, d := range []time.Duration{m.cfg.IdleSuspend, m.cfg.CheckpointEvery} {
		if d > 0 {
			every = min(every, max(d/4, time.Millisecond))
		}
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-m.ctx.Done():
			return
		}
		if suspender, ok := engine.As[engine.Suspender](m.engine); ok && m.cfg.IdleSuspend > 0 {
			each(m.registry.list((*liveSandbox).shouldSuspend), func(s *liveSandbox) {
				_ = s.during(m.ctx, func(t *lifecycle.Transition) error {
					s.suspend(m.ctx, t, suspender, m.cfg.IdleSuspend)
					return nil
				})
			})
		}
		if checkpointer, ok := engine.As[engine.Checkpointer](m.engine); ok && m.cfg.CheckpointEvery > 0 {
			each(m.registry.list((*liveSandbox).shouldCheckpoint), func(s *liveSandbox) {
				_ = s.during(m.ctx, func(t *lifecycle.Transition) error {
					s.checkpoint(m.ctx, t, checkpointer)
					return nil
				})
			})
		}
	}
}

// shouldSuspend reports whether the sandbox has been idle for IdleSuspend, its guest has the recorded expiry, and
// no delay after a failed suspend is under way.
func (s *liveSandbox) shouldSuspend() bool {
	s.mu.Lock()
	due := s.suspendBackoff.elapsed()
	s.mu.Unlock()
	return due && s.guestHasExpiry() && s.life.Idle(s.m.cfg.IdleSuspend)
}

// shouldCheckpoint reports whether the sandbox has been idle for CheckpointEvery, may have changed since its last
// checkpoint, and no delay after a failed checkpoint is under way.
func (s *liveSandbox) shouldCheckpoint() bool {
	s.mu.Lock()
	due := s.changed && s.checkpointBackoff.elapsed()
	s.mu.Unlock()
	return due && s.life.Idle(s.m.cfg.CheckpointEvery)
}
