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

// forkPatience is how long a fork waits until the original is idle.
const forkPatience = 5 * time.Second

// inheritFromOriginal copies the fields that a fork shares with its original to rec. name is the id or display name of
// the original.
func (m *Manager) inheritFromOriginal(ctx context.Context, rec *store.Sandbox, name string) error {
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
	restore := guest.Restore{Forked: true}
	if rewound.Unreported {
		restore.AsOfUnix, restore.EpochAbove = rewound.AsOf.Unix(), rewound.Epoch
	}
	if err := s.prepareGuest(ctx, restore); err != nil {
		return sandbox.Errorf(sandbox.Unavailable, "the fork of sandbox %s does not answer: try again", rec.ForkOf).WithCause(err)
	}
	return nil
}

// forkOriginal calls the engine to fork a sandbox, which may be running or suspended. The parameter from is the id
// of the original, and to is the id of the fork. No other call reaches the original's guest in the meantime;
// otherwise the fork could contain a running execution that has no record. It returns the last rewind of the
// original.
func (m *Manager) forkOriginal(ctx context.Context, from, to sandbox.ID) (rewound store.Rewind, err error) {
	original := m.created(from)
	forker, ok := engine.As[engine.Forker](m.engine)
	if original == nil || !ok {
		return rewound, m.whyGone(ctx, from)
	}
	t, wasSuspended, err := original.beginFork(ctx)
	if err != nil {
		return rewound, err
	}
	defer t.End()
	if !wasSuspended {
		original.guest.Close()
	}
	if err = original.recordRewind(ctx); err == nil {
		rewound = original.record().Rewound
		err = forker.Fork(ctx, from, to)
	}
	if wasSuspended || original.record().State == sandbox.Suspended {
		t.To(lifecycle.Suspended)
	} else {
		t.To(lifecycle.Running)
	}
	if err != nil && ctx.Err() == nil {
		if dead := original.terminateIfDead(ctx, t); dead != nil {
			return rewound, dead
		}
	}
	return rewound, err
}

// beginFork waits until the sandbox is idle or suspended, and changes its state to Forking. It returns an error if
// the sandbox is in use for longer than forkPatience. The caller must end the Transition. beginFork does not hold
// the Transition while it waits, because a call that uses the sandbox may need it in diagnose.
func (s *liveSandbox) beginFork(ctx context.Context) (t *lifecycle.Transition, wasSuspended bool, err error) {
	patience := time.NewTimer(forkPatience)
	defer patience.Stop()
	for {
		changed := s.life.Changed()
		if t, err = s.life.Begin(ctx); err != nil {
			return nil, false, err
		}
		switch state := t.State(); {
		case state == lifecycle.Suspended:
			t.To(lifecycle.Forking)
			return t, true, nil
		case state != lifecycle.Running:
			t.End()
			return nil, false, s.whyGone(ctx)
		case t.Claim(lifecycle.Forking, 0):
			return t, false, nil
		}
		t.End()
		select {
		case <-changed:
		case <-patience.C:
			return nil, false, s.inUse()
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}

// inUse returns the error for a fork of a sandbox that does not become idle.
func (s *liveSandbox) inUse() error {
	if s.executions.Len() > 0 {
		return sandbox.Errorf(sandbox.Busy, "sandbox %s is running code, which would run twice in a fork: fork it when its executions have ended, or interrupt them", s.id)
	}
	return sandbox.Errorf(sandbox.Busy, "files of sandbox %s are being read or written: fork it when that has ended", s.id)
}
