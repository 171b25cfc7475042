package manager

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

const (
	sweepEvery = 30 * time.Second // how soon a container that died by itself is noticed at the latest
	pruneEvery = time.Hour
	atOnce     = 4 // how many actions of a plan run side by side
)

// sweepLoop brings records and engine together now and then; after a failure, sooner.
func (m *Manager) sweepLoop(failed bool) {
	backoff := time.Second
	var pruned time.Time
	for {
		if time.Since(pruned) >= pruneEvery {
			pruned = time.Now()
			if err := m.Store.Prune(m.now()); err != nil {
				m.Logger.Error("old records were not dropped", "error", err)
			}
		}
		pause := sweepEvery
		if failed {
			pause, backoff = backoff, min(2*backoff, sweepEvery)
		} else {
			backoff = time.Second
		}
		select {
		case <-time.After(pause):
		case <-m.ctx.Done():
			return
		}
		m.storeUsed()
		if !failed && m.empty() {
			continue
		}
		err := m.reconcile(m.ctx)
		if (err != nil) != failed && m.ctx.Err() == nil {
			failed = err != nil
			if failed {
				m.Logger.Warn("the engine does not answer", "error", err)
			} else {
				m.Logger.Info("the engine answers again")
			}
		}
	}
}

func (m *Manager) empty() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.boxes)+len(m.creating)+len(m.leaving) == 0
}

// reconcile makes a plan and carries it out. The error is the engine's, which did not
// say what it has; what a step cannot do is logged and planned again.
func (m *Manager) reconcile(ctx context.Context) error {
	todo, err := m.compare(ctx)
	if err != nil {
		return err
	}
	var steps sync.WaitGroup
	defer steps.Wait()
	slots := make(chan struct{}, atOnce)
	for len(todo) > 0 {
		// What concerns one sandbox is done in its order.
		n := 1
		for n < len(todo) && todo[n].id == todo[0].id {
			n++
		}
		of := todo[:n]
		todo = todo[n:]
		slots <- struct{}{}
		steps.Go(func() {
			defer func() { <-slots }()
			for _, a := range of {
				m.do(m.ctx, a)
			}
		})
	}
	return nil
}

// noticeDead ends the sandboxes whose containers no longer run, and returns when their ends are on record. It returns early if
// ctx ends or the engine does not answer; then their records may be unchanged.
func (m *Manager) noticeDead(ctx context.Context) {
	if m.empty() {
		return
	}
	_ = m.finish(ctx, func(ctx context.Context) error {
		todo, err := m.compare(ctx)
		if err != nil {
			return err
		}
		var steps sync.WaitGroup
		for _, a := range todo {
			b := m.running(a.id)
			if a.do != doEnd || b == nil {
				continue
			}
			steps.Add(1)
			done := sync.OnceFunc(steps.Done)
			context.AfterFunc(b.ctx, done) // b.ctx ends when the sandbox's end is on record; removing its container can take long
			if !m.spawn(func() { defer done(); m.do(m.ctx, a) }) {
				done()
			}
		}
		steps.Wait()
		return nil
	})
}

// compare returns the actions that make the records and the engine agree.
func (m *Manager) compare(ctx context.Context) ([]action, error) {
	// A sandbox that comes to run while the engine lists its containers may not be among them, and one
	// that goes to sleep or wakes may look like neither.
	m.mu.Lock()
	ran := make(map[sandbox.ID]int, len(m.boxes))
	for id, b := range m.boxes {
		b.mu.Lock()
		ran[id] = b.moves
		b.mu.Unlock()
	}
	m.mu.Unlock()
	containers, err := m.inspect(ctx)
	if err != nil {
		return nil, err
	}
	return plan(m.known(ran), slices.Collect(maps.Values(containers)), m.now()), nil
}

// known is what there is to compare with the engine's list. Those that were not there when the list
// was asked for, or were suspended or resumed since, are left alone.
func (m *Manager) known(ran map[sandbox.ID]int) []known {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []known
	for _, b := range m.boxes {
		b.mu.Lock()
		moves, was := ran[b.id]
		all = append(all, known{rec: b.rec, told: b.told, busy: !was || moves != b.moves || moves%2 == 1})
		b.mu.Unlock()
	}
	for _, c := range m.creating {
		all = append(all, known{rec: c.rec, busy: true})
	}
	for _, l := range m.leaving {
		all = append(all, known{rec: l.rec, busy: l.clearing})
	}
	return all
}

// endUnmade ends what the last daemon was still making. That needs no engine; the
// container, if there is one, goes when the engine answers.
func (m *Manager) endUnmade() {
	m.mu.Lock()
	boxes := m.allBoxes()
	m.mu.Unlock()
	for _, b := range boxes {
		if b.record().State != sandbox.Provisioning {
			continue
		}
		if err := m.endRecord(b, store.CauseFailed, unmade); err != nil {
			b.log.Error("a sandbox could not be ended yet", "error", err)
		}
	}
}

// do carries out one step.
func (m *Manager) do(ctx context.Context, a action) {
	m.mu.Lock()
	b, left := m.boxes[a.id], m.leaving[a.id]
	m.mu.Unlock()
	switch {
	case a.do == doEnd && b != nil:
		_, err := m.end(ctx, b, func(rec store.Sandbox) (store.Cause, string) {
			if a.cause == store.CauseExpired && m.now().Before(rec.ExpireTime) {
				return "", "" // it was given more time meanwhile
			}
			return a.cause, a.reason
		})
		if err != nil {
			b.log.Error("a sandbox could not be ended yet", "error", err)
		}
	case a.do == doAgree && b != nil:
		if err := m.agree(ctx, b); err != nil {
			b.log.Warn("a record will be put right later", "error", err)
		}
	case a.do == doTell && b != nil:
		m.spawn(func() { // nobody waits for it, and a guest can be slow
			m.telling <- struct{}{}
			defer func() { <-m.telling }()
			_ = b.change(ctx, func() error { m.tell(ctx, b); return nil })
		})
	case a.do == doRemove && left != nil:
		m.clear(a.id)
	case a.do == doRemove && b == nil:
		m.removeStray(ctx, a)
	case a.do == doForget && left != nil:
		m.Store.ContainerGone(a.id)
		m.mu.Lock()
		delete(m.leaving, a.id)
		m.mu.Unlock()
	}
}

// removeStray removes a container that no record knows.
func (m *Manager) removeStray(ctx context.Context, a action) {
	m.Logger.Warn("a container is removed", "sandbox", a.id, "reason", a.reason)
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	if err := m.Engine.Remove(ctx, a.id); err != nil {
		m.Logger.Warn("a container goes later", "sandbox", a.id, "error", err)
	}
}
