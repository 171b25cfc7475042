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

// How long the engine may take, and the shortest and longest delay before a failed suspend or checkpoint is
// tried again.
const (
	suspendTimeout = 2 * time.Minute
	resumeTimeout  = time.Minute
	firstPutOff    = time.Minute
	lastPutOff     = time.Hour
)

// rest is the part of a box that describes whether it is suspended, whether it is in use, and whether it may be
// suspended. All fields are guarded by box.mu.
type rest struct {
	// asleep is true while calls must not use the guest: while the sandbox is suspended, and while the engine
	// suspends, resumes, checkpoints or forks it. In these cases hold resumes the sandbox, or waits, before a
	// call uses the guest. rec.State, in contrast, is the last state that was reached.
	asleep bool
	holds  int       // number of callers of hold and holdAwake that have not called release yet
	active time.Time // time of last use, with a monotonic reading: not affected by changes of the system clock
	waking *waking   // the resume that is under way, or nil
	// moves is incremented when a suspend, resume, checkpoint or fork begins, and again when it ends. It is odd
	// while one is under way.
	moves int
	room  bool // the sandbox counts towards MaxSandboxes and MaxMemory: it is running or being resumed
	work  bool // the sandbox may have changed since its last checkpoint

	suspending, saving patience // delays after a failed suspend and a failed checkpoint
}

// patience is the delay before a failed operation is tried again. It doubles with each failure in a row, from
// firstPutOff to lastPutOff. It has no lock of its own.
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

// waking is a resume that is under way. All callers that need the guest wait until done is closed. err is the
// result, and is written before that.
type waking struct {
	done chan struct{}
	err  error
}

// hold marks the sandbox as in use, so that it is not suspended before the caller calls release, and resumes it
// first if it is suspended. The first of several concurrent callers starts the resume, and the others wait for
// it. The resume continues if the caller's ctx ends. release is idempotent; it is nil if hold returns an error.
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
		if b.ctx.Err() != nil { // ctx may be b.ctx, which ended because the sandbox was terminated
			err = m.whyGone(ctx, b)
		}
	}
	if err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// holdAwake is like hold, but it neither waits nor resumes the sandbox, and its release does not update the time
// of last use. It is for reading the status, which does not count as use. If b.asleep is set, because the
// sandbox is suspended or in a transition, holdAwake returns a nil release and false.
func (b *box) holdAwake() (release func(), awake bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.asleep {
		return nil, false
	}
	b.holds++
	return func() { b.letGo(false) }, true
}

// letGo ends a hold. The parameter used is false if the hold does not count as use of the sandbox.
func (b *box) letGo(used bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.holds--
	if used {
		b.active = time.Now()
	}
}

// wake resumes the sandbox for the callers that wait for w. It takes b.life.
func (m *Manager) wake(b *box, w *waking) {
	err := b.change(m.ctx, func() error { return m.resume(m.ctx, b) })
	if err != nil && m.ctx.Err() != nil {
		err = errStopping()
	}
	b.awoken(w, err)
}

// awoken reports the result of a resume to the callers that wait for w.
func (b *box) awoken(w *waking, err error) {
	b.mu.Lock()
	b.waking = nil
	b.mu.Unlock()
	w.err = err
	close(w.done)
}

// resume resumes a suspended sandbox, and does nothing if it is running. On failure the sandbox remains
// suspended, or is terminated if it can never be resumed. The caller must hold b.life.
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
			return notRecorded(err) // asleep remains set, so the next call tries again; resuming twice is harmless
		}
	}
	m.awake(ctx, b)
	b.log.Info("a sandbox was resumed", "took", time.Since(start))
	return nil
}

// awake makes a sandbox usable for callers after its container has been resumed and its record has been set to
// running: it clears asleep and starts to follow its pending executions again. The caller must hold b.life.
func (m *Manager) awake(ctx context.Context, b *box) {
	b.guest.Close() // close old connections, so that the next call dials a new one
	b.mu.Lock()
	b.rec.State, b.rec.Rewound.Owed = sandbox.Running, false
	b.asleep, b.room, b.active = false, true, time.Now()
	b.suspending, b.saving = patience{}, patience{}
	var left []sandbox.Execution
	for _, p := range b.pending {
		left = append(left, p.accepted)
	}
	knows := b.told.Equal(b.rec.ExpireTime) // whether the guest had the current expiry when it was suspended
	b.mu.Unlock()
	if !knows {
		m.tell(ctx, b)
	}
	slices.SortFunc(left, func(x, y sandbox.Execution) int { return x.CreateTime.Compare(y.CreateTime) })
	for _, e := range left {
		m.follow(b, e.ID)
	}
}

// notResumed returns the error to report after the engine failed to resume a sandbox. It terminates the sandbox
// if it can never be resumed. The caller must hold b.life.
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

// endIfDead terminates a sandbox whose container neither runs nor is suspended, and returns an error that
// states why it was terminated. It returns nil for any other sandbox, and the engine's error if the engine does
// not answer. The caller must hold b.life.
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

// endNow terminates a sandbox, starts the removal of its container in the background, and returns an error that
// states why it was terminated. The caller must hold b.life.
func (m *Manager) endNow(ctx context.Context, b *box, cause store.Cause, reason string) error {
	if err := m.endRecord(b, cause, reason); err != nil {
		return err
	}
	m.spawn(func() { m.clear(b.id) })
	return m.whyGone(ctx, b)
}

// idleLoop suspends sandboxes that have been idle for IdleSuspend, and checkpoints running sandboxes that have
// been idle for CheckpointEvery, if the engine supports that.
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

// each calls do for every box for which due returns true, up to atOnce of them concurrently, and returns when
// all calls have ended. It holds box.mu during due and box.life during do. The state may change in between, so
// do must check it again.
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

// idle reports whether the sandbox may be suspended: it has been unused for at least the duration after, and its
// guest has the current expiry. A guest with an outdated expiry could terminate the sandbox when it is resumed.
// The caller must hold b.mu.
func (b *box) idle(after time.Duration) bool {
	return b.unused(after) && b.told.Equal(b.rec.ExpireTime)
}

// unused reports whether the sandbox is running and has not been used for at least the duration long. The caller
// must hold b.mu.
func (b *box) unused(long time.Duration) bool {
	return b.rec.State == sandbox.Running && !b.ended && !b.asleep && b.holds == 0 && len(b.pending) == 0 && time.Since(b.active) >= long
}

// suspend suspends the sandbox if it has still been idle for at least the duration after, and reports whether it
// did. The caller must hold b.life.
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
	m.Store.SetSaved(b.id, at) // the time stays valid after the next resume, because the engine keeps the checkpoint then
	if err := m.Store.SetState(b.id, sandbox.Suspended); err != nil {
		b.log.Error("a record was not written", "error", err) // reconcile corrects the record later
		return true
	}
	b.mu.Lock()
	b.rec.State = sandbox.Suspended
	b.mu.Unlock()
	b.log.Info("a sandbox was suspended", "took", time.Since(start))
	return true
}

// notSuspended rolls back a failed suspend by resuming the sandbox, whichever step of the suspend failed. If
// the resume fails too, asleep remains set, and the next call that needs the guest resumes the sandbox. The
// caller must hold b.life.
func (m *Manager) notSuspended(ctx context.Context, s engine.Suspender, b *box, cause error) {
	if ctx.Err() != nil {
		return // this daemon is stopping; the next daemon reconciles the state
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

// agree updates the record of a sandbox to the state that the engine reports: running, suspended, or suspended
// with only an older checkpoint left, which is a rewind. It takes b.life.
func (m *Manager) agree(ctx context.Context, b *box) error {
	return b.change(ctx, func() error {
		containers, err := m.inspect(ctx) // ask the engine again, because the state may have changed since the plan was made
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

// fellAsleep records in memory that the engine has suspended the sandbox without a request from this manager.
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

// move increments b.moves, which marks the begin or the end of a transition.
func (b *box) move() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.moves++
}

// optional returns the engine's implementation of the interface T, or nil if it has none. If the engine is not
// open yet, the interfaces that it implements are unknown, so optional lists its containers, which opens it. It
// returns an error if that fails.
func optional[T any](ctx context.Context, m *Manager) (can T, err error) {
	can, ok := engine.As[T](m.Engine)
	if !ok {
		if _, err = m.inspect(ctx); err == nil {
			can, _ = engine.As[T](m.Engine)
		}
	}
	return can, err
}
