package manager

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// How long the engine may take, and how soon a suspend that failed is tried again.
const (
	suspendTimeout = 2 * time.Minute
	resumeTimeout  = time.Minute
	firstPutOff    = time.Minute
	lastPutOff     = time.Hour
)

// rest is what keeps a sandbox awake, and what is known of its sleep. Under the box's mu.
type rest struct {
	// asleep: the engine must be asked to resume it before its guest can be used. It says so from
	// before the engine suspends it until after it was resumed; on disk is what was reached.
	asleep bool
	holds  int       // of those who use its guest right now
	active time.Time // when it was last used, by the clock that nobody sets
	waking *waking   // not nil: somebody resumes it
	moves  int       // begun and ended suspends and resumes; odd: one is under way
	room   bool      // it runs, or may: it counts towards what may run at once
	work   bool      // it may have changed since its state was last saved

	suspending, saving patience
}

// patience is how long not to try again what failed. Each failure in a row doubles it.
type patience struct {
	after  time.Time
	putOff time.Duration
}

func (p *patience) over() bool { return !time.Now().Before(p.after) }

func (p *patience) failed() time.Duration {
	p.putOff = min(max(2*p.putOff, firstPutOff), lastPutOff)
	p.after = time.Now().Add(p.putOff)
	return p.putOff
}

// waking is a resume that all who need the guest wait for.
type waking struct {
	done chan struct{}
	err  error
}

// hold keeps a sandbox awake until release is called, and resumes it first if it sleeps. Of many
// who ask at once, one resumes it, and goes on if its caller gives up.
func (m *Manager) hold(ctx context.Context, b *box) (release func(), err error) {
	b.mu.Lock()
	b.holds++
	var w *waking
	first := b.asleep && b.waking == nil
	if first {
		b.waking = &waking{done: make(chan struct{})}
	}
	if b.asleep {
		w = b.waking
	}
	b.mu.Unlock()
	release = sync.OnceFunc(func() { b.letGo(true) })
	if w == nil {
		return release, nil
	}
	if first && !m.spawn(func() { m.wake(b, w) }) {
		b.awoken(w, errStopping())
	}
	select {
	case <-w.done:
		err = w.err
	case <-ctx.Done():
		err = ctx.Err()
		if b.ctx.Err() != nil { // which ctx may be
			err = m.whyGone(ctx, b)
		}
	}
	if err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// holdAwake is hold for who only looks: it does not wake the sandbox, nor does it count as use.
func (b *box) holdAwake() (release func(), awake bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.asleep {
		return nil, false
	}
	b.holds++
	return func() { b.letGo(false) }, true
}

func (b *box) letGo(used bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.holds--
	if used {
		b.active = time.Now()
	}
}

func (m *Manager) wake(b *box, w *waking) {
	err := b.change(m.ctx, func() error { return m.resume(m.ctx, b) })
	if err != nil && m.ctx.Err() != nil {
		err = errStopping()
	}
	b.awoken(w, err)
}

func (b *box) awoken(w *waking, err error) {
	b.mu.Lock()
	b.waking = nil
	b.mu.Unlock()
	w.err = err
	close(w.done)
}

// resume wakes a sandbox. It is called by whoever changes its life. What fails leaves it
// asleep, unless it can never be resumed.
func (m *Manager) resume(ctx context.Context, b *box) error {
	switch {
	case !b.alive():
		return m.whyGone(ctx, b)
	case !b.sleeps():
		return nil
	case !m.now().Before(b.expires()):
		m.expiryMoved()
		return expired(b.id, b.expires())
	}
	s, err := optional[engine.Suspender](ctx, m)
	if err != nil {
		return err
	}
	if s == nil {
		return sandbox.Errorf(sandbox.Unavailable, "sandbox %s is suspended, and the %s engine is not the one that can resume it", b.id, m.Engine.Info().Name)
	}
	start := time.Now()
	b.move()
	defer b.move()
	if err := m.findRewound(ctx, b); err != nil {
		return err
	}
	if err := m.takeRoom(ctx, b); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, resumeTimeout)
	defer cancel()
	if err := s.Resume(limited, b.id); err != nil {
		b.leaveRoom()
		return m.notResumed(ctx, b, err)
	}
	if err := m.tellRewound(ctx, b); err != nil {
		return err
	}
	if b.record().State != sandbox.Running {
		if err := m.Store.SetState(b.id, sandbox.Running); err != nil {
			return notRecorded(err) // it stays asleep for us; to resume it again does no harm
		}
	}
	m.awake(ctx, b)
	b.log.Info("a sandbox was resumed", "took", time.Since(start))
	return nil
}

// awake makes a sandbox that runs, on record too, usable. It is called by whoever changes its life.
func (m *Manager) awake(ctx context.Context, b *box) {
	b.guest.Close() // it dials anew
	b.mu.Lock()
	b.rec.State, b.rec.Rewound.Owed = sandbox.Running, false
	b.asleep, b.room, b.active = false, true, time.Now()
	b.suspending, b.saving = patience{}, patience{}
	var left []sandbox.Execution
	for _, p := range b.pending {
		left = append(left, p.accepted)
	}
	knows := b.told.Equal(b.rec.ExpireTime) // as it did when it fell asleep
	b.mu.Unlock()
	if !knows {
		m.tell(ctx, b)
	}
	slices.SortFunc(left, func(x, y sandbox.Execution) int { return x.CreateTime.Compare(y.CreateTime) })
	for _, e := range left {
		m.follow(b, e.ID)
	}
}

// notResumed explains why a sandbox was not resumed, and ends it if it never can be.
func (m *Manager) notResumed(ctx context.Context, b *box, cause error) error {
	if m.ctx.Err() != nil {
		return errStopping()
	}
	b.log.Error("a sandbox could not be resumed", "error", cause)
	why := store.Cause("")
	var reason string
	if sandbox.KindOf(cause) == sandbox.Expired {
		why, reason = store.CauseLost, sandbox.Public(cause).Message+", and its variables and files are lost"
	} else if dead := m.endIfDead(ctx, b); dead != nil {
		return dead
	}
	if why == "" {
		what := "try again"
		if known, ok := errors.AsType[*sandbox.Error](cause); ok {
			what = known.Message
		}
		return sandbox.Errorf(sandbox.Unavailable, "sandbox %s could not be resumed, and nothing of it is lost: %s", b.id, what).WithCause(cause)
	}
	return m.endNow(ctx, b, why, reason)
}

// endIfDead ends a sandbox whose container neither runs nor is suspended, and returns an error that says why it ended. It returns nil
// for any other sandbox, and the engine's error if the engine does not answer. The caller must be in b.change.
func (m *Manager) endIfDead(ctx context.Context, b *box) error {
	containers, err := m.inspect(ctx)
	if err != nil {
		return err
	}
	c, there := containers[b.id]
	if there && (c.Running || c.Suspended) {
		return nil
	}
	cause, reason := whyDead(b.record(), c, there, m.now())
	return m.endNow(ctx, b, cause, reason)
}

// endNow ends a sandbox, starts the removal of its container in the background, and returns an error that says why it ended. The
// caller must be in b.change.
func (m *Manager) endNow(ctx context.Context, b *box, cause store.Cause, reason string) error {
	if err := m.endRecord(b, cause, reason); err != nil {
		return err
	}
	m.spawn(func() { m.clear(b.id) })
	return m.whyGone(ctx, b)
}

// idleLoop suspends what nobody has used for a while, and saves what is not idle for that long yet, if
// the engine can.
func (m *Manager) idleLoop() {
	every := clockCheck
	for _, d := range []time.Duration{m.IdleSuspend, m.CheckpointEvery} {
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
		if s, ok := engine.As[engine.Suspender](m.Engine); ok && m.IdleSuspend > 0 {
			m.each(func(b *box) bool { return b.idle(m.IdleSuspend) && b.suspending.over() }, func(b *box) { m.suspend(m.ctx, s, b, m.IdleSuspend) })
		}
		if c, ok := engine.As[engine.Checkpointer](m.Engine); ok && m.CheckpointEvery > 0 {
			m.each(func(b *box) bool { return b.unsaved(m.CheckpointEvery) }, func(b *box) { m.checkpoint(m.ctx, c, b) })
		}
	}
}

// each calls do for all that is due, with mu held, some side by side. It changes their lives.
func (m *Manager) each(due func(*box) bool, do func(*box)) {
	m.mu.Lock()
	boxes := m.allBoxes()
	m.mu.Unlock()
	var steps sync.WaitGroup
	defer steps.Wait()
	slots := make(chan struct{}, atOnce)
	for _, b := range boxes {
		b.mu.Lock()
		is := due(b)
		b.mu.Unlock()
		if !is {
			continue
		}
		slots <- struct{}{}
		steps.Go(func() {
			defer func() { <-slots }()
			_ = b.change(m.ctx, func() error { do(b); return nil })
		})
	}
}

// idle reports whether a sandbox may be suspended, with mu held. Its guest must know its expiry: a
// guest that wakes after the one that it knows ends the sandbox.
func (b *box) idle(after time.Duration) bool {
	return b.unused(after) && b.told.Equal(b.rec.ExpireTime)
}

// unused reports whether nobody has used a sandbox for so long, with mu held.
func (b *box) unused(long time.Duration) bool {
	return b.rec.State == sandbox.Running && !b.ended && !b.asleep && b.holds == 0 && len(b.pending) == 0 && time.Since(b.active) >= long
}

// suspend suspends a sandbox if it is idle still, and reports whether it did. It is called by whoever changes its life.
func (m *Manager) suspend(ctx context.Context, s engine.Suspender, b *box, after time.Duration) (done bool) {
	b.mu.Lock()
	idle, work := b.idle(after), b.work
	if idle {
		b.asleep, b.work = true, false
		b.moves++
	}
	b.mu.Unlock()
	if !idle {
		return false
	}
	defer b.move()
	defer func() {
		if work && !done {
			b.worked()
		}
	}()
	start, at := time.Now(), m.now()
	freed, err := m.reserveDisk(ctx, b, true)
	defer freed()
	if err != nil {
		m.notSaved(b, &b.suspending, err)
		return false
	}
	b.guest.Close()
	limited, cancel := context.WithTimeout(ctx, suspendTimeout)
	defer cancel()
	if err := s.Suspend(limited, b.id); err != nil {
		m.notSuspended(ctx, s, b, err)
		return false
	}
	b.mu.Lock()
	b.room, b.suspending.putOff, b.rec.SavedTime = false, 0, at
	b.mu.Unlock()
	m.Store.SetSaved(b.id, at) // what it is resumed from is kept
	if err := m.Store.SetState(b.id, sandbox.Suspended); err != nil {
		b.log.Error("a record was not written", "error", err) // reconciling writes it
		return true
	}
	b.mu.Lock()
	b.rec.State = sandbox.Suspended
	b.mu.Unlock()
	b.log.Info("a sandbox was suspended", "took", time.Since(start))
	return true
}

// notSuspended has a sandbox run on whose suspend failed, wherever it did. If even that fails, it
// stays asleep for us, and the next who needs it resumes it.
func (m *Manager) notSuspended(ctx context.Context, s engine.Suspender, b *box, cause error) {
	if ctx.Err() != nil {
		return // the next manager finds out
	}
	b.mu.Lock()
	putOff := b.suspending.failed()
	b.mu.Unlock()
	b.log.Warn("a sandbox could not be suspended", "error", cause, "again in", putOff)
	limited, cancel := context.WithTimeout(ctx, resumeTimeout)
	defer cancel()
	if err := s.Resume(limited, b.id); err != nil {
		b.log.Warn("whether it runs is not known", "error", err)
		return
	}
	b.mu.Lock()
	b.asleep = false
	b.mu.Unlock()
}

// agree makes the record say what the engine does of a sandbox: that it runs, or is suspended.
func (m *Manager) agree(ctx context.Context, b *box) error {
	return b.change(ctx, func() error {
		containers, err := m.inspect(ctx) // again: it may be otherwise by now
		if err != nil || !b.alive() {
			return err
		}
		c, state := containers[b.id], b.record().State
		switch {
		case c.Suspended && !c.AsOf.IsZero():
			return m.rewind(b, c.AsOf)
		case c.Suspended && state == sandbox.Running:
			if err := m.Store.SetState(b.id, sandbox.Suspended); err != nil {
				return err
			}
			b.mu.Lock()
			b.rec.State, b.asleep, b.room = sandbox.Suspended, true, false
			b.mu.Unlock()
		case c.Running && state == sandbox.Suspended:
			if err := m.tellRewound(ctx, b); err != nil {
				return err
			}
			if err := m.Store.SetState(b.id, sandbox.Running); err != nil {
				return err
			}
			m.awake(ctx, b)
		}
		return nil
	})
}

// fellAsleep notes that the engine has suspended a sandbox unknown to us.
func (b *box) fellAsleep() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asleep, b.room = true, false
}

func (b *box) sleeps() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.asleep
}

func (b *box) move() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.moves++
}

// optional returns what the engine can do beyond [engine.Engine], or nil if it cannot. The
// error says that there is no engine yet.
func optional[T any](ctx context.Context, m *Manager) (can T, err error) {
	can, ok := engine.As[T](m.Engine)
	if !ok {
		if _, err = m.inspect(ctx); err == nil {
			can, _ = engine.As[T](m.Engine)
		}
	}
	return can, err
}
