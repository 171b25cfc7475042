package manager

import (
	"context"
	"fmt"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/lifecycle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// adopt sets the record of a sandbox to the state that the engine reports: running, suspended, or suspended with
// only an older checkpoint left, which is a rewind. The caller must not hold the Transition.
func (s *liveSandbox) adopt(ctx context.Context) error {
	return s.during(ctx, func(t *lifecycle.Transition) error {
		containers, err := s.m.inspect(ctx) // list the containers again, because the state may have changed since the caller's list was made
		if err != nil || t.State() == lifecycle.Terminated {
			return err
		}
		c, recorded := containers[s.id], s.record().State
		switch {
		case c.Suspended && !c.AsOf.IsZero():
			if t.State() == lifecycle.Running {
				t.To(lifecycle.Suspended)
			}
			return s.rewind(c.AsOf)
		case c.Suspended && recorded == sandbox.Running:
			return s.adoptSuspended(t)
		case c.Running && recorded == sandbox.Suspended:
			return s.adoptRunning(ctx, t)
		}
		return nil
	})
}

// adoptSuspended records that the engine has suspended the sandbox.
func (s *liveSandbox) adoptSuspended(t *lifecycle.Transition) error {
	if t.State() == lifecycle.Running {
		t.To(lifecycle.Suspended)
	}
	s.m.capacity.SetRunning(s.id, false)
	if err := s.m.store.SetState(s.id, sandbox.Suspended); err != nil {
		return notRecorded(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rec.State = sandbox.Suspended
	return nil
}

// adoptRunning records that the engine has resumed the sandbox.
func (s *liveSandbox) adoptRunning(ctx context.Context, t *lifecycle.Transition) error {
	if t.State() != lifecycle.Suspended {
		return nil
	}
	t.To(lifecycle.Resuming)
	err := s.reportRewind(ctx)
	if err == nil {
		if err = s.m.store.SetState(s.id, sandbox.Running); err != nil {
			err = notRecorded(err)
		}
	}
	if err != nil {
		t.To(lifecycle.Suspended)
		return err
	}
	s.enterRunning(ctx, t)
	return nil
}

// recordRewind checks whether the processes of a sandbox died before the engine could save their latest state. If
// so, the engine can only resume an older checkpoint, and recordRewind records the rewind to it. The caller must
// hold the Transition, and must call recordRewind before it resumes or forks the sandbox.
func (s *liveSandbox) recordRewind(ctx context.Context) error {
	containers, err := s.m.inspect(ctx)
	if err != nil {
		return err
	}
	if c := containers[s.id]; c.Suspended && !c.AsOf.IsZero() {
		return s.rewind(c.AsOf)
	}
	return nil
}

// rewind records that a sandbox went back to its state as of asOf. It must be called before any client can see that
// state. Unfinished executions that are being sent, and whose effects no client can have seen, stay pending and
// will still run. Other unfinished executions are lost, and those that ended after asOf are marked as undone. The
// caller must hold the Transition, and the state must not be Running, so that no call reaches the guest.
func (s *liveSandbox) rewind(asOf time.Time) error {
	rec := s.record()
	if known := rec.Rewound; rec.State == sandbox.Suspended && known.Unreported && known.AsOf.Equal(asOf) {
		return nil
	}
	s.m.capacity.SetRunning(s.id, false)
	how := fmt.Sprintf("the sandbox's processes died (its machine stopped, or they were killed), and it went back to its state as of %s", stamp(asOf))
	keep := s.executions.Unseen()
	done, err := s.m.store.Rewind(s.id, store.Rewinding{
		AsOf: asOf, Time: s.m.now(), Keep: keep,
		Lost:   how + ": all effects of this execution are undone",
		Undone: how + ": the effects of this execution are undone, and its output is gone",
	})
	if err != nil {
		return notRecorded(err)
	}
	s.mu.Lock()
	s.rec.State, s.rec.Rewound, s.rec.SavedTime, s.guestExpiry = sandbox.Suspended, done, done.AsOf, time.Time{}
	s.mu.Unlock()
	s.reportLost(s.executions.RemoveExcept(keep...))
	s.m.store.SetSaved(s.id, done.AsOf)
	s.log.Warn("the processes of a sandbox died: it went back to its last checkpoint", "as of", asOf)
	return nil
}

// reportRewind informs the guest of a rewound sandbox about the rewind. No client may use the sandbox before
// reportRewind has succeeded. reportRewind does nothing if the guest has been informed already. The caller must
// hold the Transition.
func (s *liveSandbox) reportRewind(ctx context.Context) error {
	r := s.record().Rewound
	if !r.Unreported {
		return nil
	}
	s.guest.Close() // close old connections, so that the next call dials a new one
	if err := s.reportRestore(ctx, guest.Restore{AsOfUnix: r.AsOf.Unix(), EpochAbove: r.Epoch}); err != nil {
		return sandbox.Errorf(sandbox.Unavailable, "sandbox %s was resumed, and does not answer yet; nothing of it is lost: try again", s.id).WithCause(err)
	}
	return nil
}

// reportRestore informs a guest that its memory was restored from a checkpoint or snapshot, or copied by a fork.
// The guest cannot detect that itself.
func (s *liveSandbox) reportRestore(ctx context.Context, restore guest.Restore) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	err := s.guest.ReportRestore(ctx, restore)
	if err != nil && !isAnswer(err) && ctx.Err() == nil {
		err = s.guest.ReportRestore(ctx, restore) // repeating the call is harmless
	}
	return err
}
