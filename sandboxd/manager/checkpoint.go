package manager

import (
	"context"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/lifecycle"
)

// checkpoint writes a checkpoint of a running sandbox, if one is still due, and lets the sandbox continue. No
// other call reaches the guest during the checkpoint, so no code runs in the state that is saved.
func (s *liveSandbox) checkpoint(ctx context.Context, t *lifecycle.Transition, checkpointer engine.Checkpointer) {
	if !s.shouldCheckpoint() || !t.Claim(lifecycle.Checkpointing, s.m.cfg.CheckpointEvery) {
		return
	}
	s.clearChanged()
	start, at := time.Now(), s.m.now()
	release, err := s.m.reserveDisk(ctx, s, false)
	defer release()
	if err == nil {
		s.guest.Close()
		limited, cancel := context.WithTimeout(ctx, suspendTimeout)
		defer cancel()
		err = checkpointer.Checkpoint(limited, s.id)
	}
	if err != nil {
		s.markChanged()
		t.To(lifecycle.Running)
		if ctx.Err() == nil {
			s.delayNextSave(&s.checkpointBackoff, err)
		}
		return
	}
	s.m.store.SetSaved(s.id, at)
	s.mu.Lock()
	s.checkpointBackoff, s.rec.SavedTime = backoff{}, at
	s.mu.Unlock()
	t.To(lifecycle.Running)
	s.log.Info("a checkpoint of a running sandbox was written", "took", time.Since(start))
}
