package manager

import (
	"context"
	"errors"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// How long a fork waits for the original to become idle, and how often it checks.
const (
	forkPatience = 5 * time.Second
	forkLook     = 20 * time.Millisecond
)

// asOriginal copies the fields that a fork shares with its original to rec. name is the id or display name of
// the original.
func (m *Manager) asOriginal(ctx context.Context, rec *store.Sandbox, name string) error {
	if f, err := optional[engine.Forker](ctx, m); err != nil {
		return err
	} else if f == nil {
		return sandbox.Errorf(sandbox.Invalid, "the %s engine can't copy a live sandbox, so fork_of can't work here; the gvisor engine can (--engine gvisor): create a sandbox without fork_of, and send its files and set-up code again", m.Engine.Info().Name)
	}
	b, err := m.find(ctx, name)
	if err != nil {
		return err
	}
	of := b.record()
	rec.ForkOf, rec.Language, rec.Image, rec.Limits, rec.UID = of.ID, of.Language, of.Image, of.Limits, of.UID
	return nil
}

// fork creates a sandbox as a fork of the original rec.ForkOf. Before it returns, it informs the fork's guest
// that it is a fork. If the original was rewound and its guest has not been informed of that, fork also informs
// the fork's guest of the rewind. If the fork exists but its guest does not answer, fork returns the box
// together with the error.
func (m *Manager) fork(ctx context.Context, rec store.Sandbox) (*box, error) {
	of, err := m.copyOriginal(ctx, rec)
	if err != nil {
		return nil, err
	}
	rec.State = sandbox.Running
	b := m.newBox(rec)
	a := guest.Awakening{Copy: true}
	if of.Owed {
		a.AsOfUnix, a.EpochAbove = of.AsOf.Unix(), of.Epoch
	}
	if err := m.begins(ctx, b, a); err != nil {
		return b, sandbox.Errorf(sandbox.Unavailable, "the copy of sandbox %s does not answer: try again", rec.ForkOf).WithCause(err)
	}
	return b, nil
}

// begins prepares the guest of a sandbox that was started with the memory of another sandbox. It informs the
// guest that its memory was copied. It also sets the guest's expiry, because the memory contains the expiry of
// the other sandbox, which may have passed. The box must not be in m.boxes yet.
func (m *Manager) begins(ctx context.Context, b *box, a guest.Awakening) error {
	told := make(chan bool, 1)
	// Make both calls concurrently. Each takes a while, because the restored memory is still being read from disk.
	go func() { told <- m.tell(ctx, b) }()
	err := m.awaken(ctx, b, a)
	if !<-told && err == nil {
		err = errors.New("the guest does not know its expiry")
	}
	return err
}

// copyOriginal calls the engine to fork the original of a new sandbox, which may be running or suspended. No
// other call reaches the original's guest in the meantime; otherwise the fork could contain a running execution
// that has no record. It returns the last rewind of the original.
func (m *Manager) copyOriginal(ctx context.Context, rec store.Sandbox) (of store.Rewind, err error) {
	b := m.running(rec.ForkOf)
	f, ok := engine.As[engine.Forker](m.Engine)
	if b == nil || !ok {
		return of, m.whyEnded(ctx, rec.ForkOf)
	}
	err = b.change(ctx, func() error {
		if !b.alive() {
			return m.whyGone(ctx, b)
		}
		wasAsleep, err := b.still(ctx)
		if err != nil {
			return err
		}
		defer b.move()
		if !wasAsleep {
			b.guest.Close()
		}
		if err = m.findRewound(ctx, b); err == nil {
			of = b.record().Rewound
			err = f.Fork(ctx, rec.ForkOf, rec.ID)
		}
		b.mu.Lock()
		b.asleep = wasAsleep || b.rec.State == sandbox.Suspended
		b.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			if dead := m.endIfDead(ctx, b); dead != nil {
				return dead
			}
		}
		return err
	})
	return of, err
}

// still waits until the sandbox is idle or suspended, and then sets b.asleep, so that no other call uses its
// guest. wasAsleep is the value of b.asleep before. still returns an error if the sandbox is in use for longer
// than forkPatience. After success the caller must set b.asleep to the actual state and call b.move. The caller
// must hold b.life.
func (b *box) still(ctx context.Context) (wasAsleep bool, err error) {
	for begin := time.Now(); ; {
		b.mu.Lock()
		asleep, busy := b.asleep, len(b.pending) > 0
		quiet := asleep || b.holds == 0 && !busy
		if quiet {
			b.asleep = true
			b.moves++
		}
		b.mu.Unlock()
		switch {
		case quiet:
			return asleep, nil
		case time.Since(begin) >= forkPatience && busy:
			return false, sandbox.Errorf(sandbox.Busy, "sandbox %s runs code, which would run twice in a copy: fork it when its executions have ended, or interrupt them", b.id)
		case time.Since(begin) >= forkPatience:
			return false, sandbox.Errorf(sandbox.Busy, "files of sandbox %s are being read or written: fork it when that has ended", b.id)
		}
		select {
		case <-time.After(forkLook):
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}
