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

// forkPatience is how long a fork waits until nobody uses the original.
const (
	forkPatience = 5 * time.Second
	forkLook     = 20 * time.Millisecond
)

// asOriginal makes a record that of a fork of the sandbox that name means.
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

// fork makes a new sandbox as a copy of its original, and tells it what it has to know of that before anybody uses it.
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

// begins tells the guest of a sandbox that starts with another's memory so, and its own expiry in place of the other's, which
// may be over.
func (m *Manager) begins(ctx context.Context, b *box, a guest.Awakening) error {
	told := make(chan bool, 1)
	go func() { told <- m.tell(ctx, b) }() // at once: either takes a while in memory that is still being read
	err := m.awaken(ctx, b, a)
	if !<-told && err == nil {
		err = errors.New("the guest does not know its expiry")
	}
	return err
}

// copyOriginal has the engine copy the original of a new sandbox, awake or asleep. Nobody reaches the original
// meanwhile, so that no code runs in the copy that its record knows nothing of. It returns what the original was rewound to.
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

// still keeps everybody from a sandbox's guest, as if it slept, as soon as nobody uses it. It is called by
// whoever changes its life, and who then has to say whether it sleeps.
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
