package manager

import (
	"context"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/lifecycle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// forkPatience is how long a fork waits for the original to become idle.
const forkPatience = 5 * time.Second

// asOriginal copies the fields that a fork shares with its original to rec. name is the id or display name of
// the original.
func (m *Manager) asOriginal(ctx context.Context, rec *store.Sandbox, name string) error {
	if f, err := optional[engine.Forker](ctx, m); err != nil {
		return err
	} else if f == nil {
		return sandbox.Errorf(sandbox.Invalid, "the %s engine cannot fork a sandbox, so fork_of does not work here; the gvisor engine can (--engine gvisor): create a sandbox without fork_of, and send its files and set-up code again", m.engine.Info().Name)
	}
	original, err := m.find(ctx, name)
	if err != nil {
		return err
	}
	of := original.record()
	rec.ForkOf, rec.Language, rec.Image, rec.Limits, rec.UID = of.ID, of.Language, of.Image, of.Limits, of.UID
	return nil
}

// startFromFork starts the container of a new sandbox as a fork of the original rec.ForkOf, and informs its guest
// that it is a fork. If the original was rewound and its guest has not been informed of that, startFromFork also
// informs the fork's guest of the rewind. On failure a container may exist nevertheless. The caller must hold the
// Transition of the new sandbox.
func (s *liveSandbox) startFromFork(ctx context.Context) error {
	rec := s.record()
	rewound, err := s.m.forkOriginal(ctx, rec.ForkOf, rec.ID)
	if err != nil {
		return err
	}
	a := guest.Awakening{Copy: true}
	if rewound.Owed {
		a.AsOfUnix, a.EpochAbove = rewound.AsOf.Unix(), rewound.Epoch
	}
	if err := s.prepareGuest(ctx, a); err != nil {
		return sandbox.Errorf(sandbox.Unavailable, "the fork of sandbox %s does not answer: try again", rec.ForkOf).WithCause(err)
	}
	return nil
}

// forkOriginal calls the engine to fork the sandbox with the id from, which may be running or suspended, as to. No
// other call reaches the original's guest in the meantime; otherwise the fork could contain a running execution
// that has no record. It returns the last rewind of the original.
//
// The caller holds the Transition of the new sandbox, which no other goroutine waits for: a sandbox that is being
// created has no users.
func (m *Manager) forkOriginal(ctx context.Context, from, to sandbox.ID) (rewound store.Rewind, err error) {
	original := m.created(from)
	forker, ok := engine.As[engine.Forker](m.engine)
	if original == nil || !ok {
		return rewound, m.whyGone(ctx, from)
	}
	err = original.during(ctx, func(t *lifecycle.Transition) error {
		before := t.State()
		if before == lifecycle.Terminated {
			return original.whyGone(ctx)
		}
		if before == lifecycle.Suspended {
			t.To(lifecycle.Forking)
		} else {
			if err := original.claimForFork(ctx, t); err != nil {
				return err
			}
			original.guest.Close()
		}
		err := original.recordRewind(ctx)
		if err == nil {
			rewound = original.record().Rewound
			err = forker.Fork(ctx, from, to)
		}
		if before == lifecycle.Suspended || original.record().State == sandbox.Suspended {
			t.To(lifecycle.Suspended)
		} else {
			t.To(lifecycle.Running)
		}
		if err != nil && ctx.Err() == nil {
			if dead := original.terminateIfDead(ctx, t); dead != nil {
				return dead
			}
		}
		return err
	})
	return rewound, err
}

// claimForFork waits until a running sandbox is idle and changes its state to Forking. It returns an error if the
// sandbox is in use for longer than forkPatience.
func (s *liveSandbox) claimForFork(ctx context.Context, t *lifecycle.Transition) error {
	limited, cancel := context.WithTimeout(ctx, forkPatience)
	defer cancel()
	claimed, err := t.WaitClaim(limited, lifecycle.Forking)
	switch {
	case claimed:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil: // not running: its creation was not finished when the daemon stopped
		return s.whyGone(ctx)
	case s.executions.Len() > 0:
		return sandbox.Errorf(sandbox.Busy, "sandbox %s is running code, which would run twice in a fork: fork it when its executions have ended, or interrupt them", s.id)
	}
	return sandbox.Errorf(sandbox.Busy, "files of sandbox %s are being read or written: fork it when that has ended", s.id)
}
