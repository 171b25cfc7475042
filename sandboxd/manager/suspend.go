package manager

import (
	"context"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/lifecycle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// suspendTimeout is how long the engine may take to suspend or to checkpoint a sandbox.
const suspendTimeout = 2 * time.Minute

// suspend suspends the sandbox if it has been idle for at least the given duration, and reports whether it did. If
// a failed suspend could not be undone, suspend returns false but leaves the sandbox in the state Suspended:
// whether the sandbox runs is then unknown, and the next call that needs the guest resumes it.
func (s *liveSandbox) suspend(ctx context.Context, t *lifecycle.Transition, suspender engine.Suspender, idle time.Duration) (done bool) {
	if !s.guestHasExpiry() || !t.Claim(lifecycle.Suspending, idle) {
		return false
	}
	changed := s.clearChanged()
	defer func() {
		if changed && !done {
			s.markChanged()
		}
	}()
	start, at := time.Now(), s.m.now()
	release, err := s.m.reserveDisk(ctx, s, true)
	defer release()
	if err != nil {
		t.To(lifecycle.Running)
		s.delayNextSave(&s.suspendBackoff, err)
		return false
	}
	s.guest.Close()
	limited, cancel := context.WithTimeout(ctx, suspendTimeout)
	defer cancel()
	if err := suspender.Suspend(limited, s.id); err != nil {
		if s.undoSuspend(ctx, suspender, err) {
			t.To(lifecycle.Running)
		} else {
			t.To(lifecycle.Suspended)
		}
		return false
	}
	s.mu.Lock()
	s.suspendBackoff, s.rec.SavedTime = backoff{}, at
	s.mu.Unlock()
	s.m.store.SetSaved(s.id, at) // the time stays valid after the next resume, because the engine keeps the checkpoint then
	if err := s.m.store.SetState(s.id, sandbox.Suspended); err != nil {
		s.log.Error("the state of a sandbox could not be recorded; the next sweep tries again", "error", err)
	} else {
		s.mu.Lock()
		s.rec.State = sandbox.Suspended
		s.mu.Unlock()
	}
	t.To(lifecycle.Suspended)
	s.m.capacity.SetRunning(s.id, false)
	s.log.Info("a sandbox was suspended", "took", time.Since(start))
	return true
}

// undoSuspend resumes the sandbox after a failed suspend, whichever step of the suspend failed. It reports whether
// the sandbox is known to run. If the processes of the sandbox have died, it records the rewind to the last
// checkpoint instead, because a resume would restore that checkpoint.
func (s *liveSandbox) undoSuspend(ctx context.Context, suspender engine.Suspender, cause error) bool {
	if ctx.Err() != nil {
		return false // this daemon is stopping; the next daemon reconciles the state
	}
	s.mu.Lock()
	again := s.suspendBackoff.fail()
	s.mu.Unlock()
	s.log.Warn("a sandbox could not be suspended", "error", cause, "again in", again)
	err := s.recordRewind(ctx)
	if err == nil && s.record().State == sandbox.Suspended {
		return false
	}
	if err == nil {
		limited, cancel := context.WithTimeout(ctx, resumeTimeout)
		defer cancel()
		err = suspender.Resume(limited, s.id)
	}
	if err != nil {
		s.log.Warn("a sandbox could not be resumed after a failed suspend; the next call that needs it tries again", "error", err)
	}
	return err == nil
}

// delayNextSave sets the delay until the next attempt after a checkpoint or suspend failed. b is suspendBackoff or
// checkpointBackoff.
func (s *liveSandbox) delayNextSave(b *backoff, cause error) {
	s.mu.Lock()
	// While the disk is full, keep the delay at its minimum. The engine frees space when it compresses the
	// checkpoints of suspended sandboxes, and the next attempt should follow soon after that.
	if cause == errDiskFull {
		b.delay = 0
	}
	again := b.fail()
	s.mu.Unlock()
	if cause != errDiskFull { // a full disk is logged by disk.setFull
		s.log.Warn("the state of a sandbox could not be saved", "error", cause, "again in", again)
	}
}
