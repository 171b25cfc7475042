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
	sweepEvery = 30 * time.Second // the longest time until a container that stopped without a request is detected
	pruneEvery = time.Hour
	atOnce     = 4 // how many actions, or how many suspends or checkpoints, run concurrently
)

// sweepLoop reconciles the records with the engine every sweepEvery. After a failure it retries sooner, with a
// growing delay. It also deletes old records every pruneEvery. The parameter failed is true if the first
// reconcile, which Start runs, failed.
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

// reconcile plans the actions that make the records and the engine agree, and runs them. It returns an error
// only if the engine cannot list its containers. If an action fails, it is logged and the next reconcile plans
// it again.
func (m *Manager) reconcile(ctx context.Context) error {
	todo, err := m.compare(ctx)
	if err != nil {
		return err
	}
	var steps sync.WaitGroup
	defer steps.Wait()
	slots := make(chan struct{}, atOnce)
	for len(todo) > 0 {
		// Actions on the same sandbox run one after another, in the order of the plan.
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

// noticeDead terminates the sandboxes whose containers no longer run, and returns when their ends are on
// record. It returns early if ctx ends or the engine does not answer; then their records may be unchanged.
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
			// b.ctx ends when the termination is on record. Do not wait longer: removing the container can be slow.
			context.AfterFunc(b.ctx, done)
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
	// Copy the moves of all boxes before asking the engine, so that known can detect which sandboxes changed
	// while the engine made its list. The list may lack a sandbox that starts at that time, and may show a
	// sandbox that is suspended or resumed at that time as neither running nor suspended.
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

// known returns the sandboxes to compare with the engine's list. ran maps each sandbox that existed before the
// list was requested to its value of box.moves at that time. Sandboxes that were added since then, or whose
// moves changed or are odd (a transition is under way), are marked as busy, so that the plan leaves them alone.
// So are sandboxes that are being created, and those whose container is being removed.
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

// endUnmade terminates the sandboxes that the previous daemon was still creating. It only changes records, so it
// works even if the engine does not answer; reconcile removes the containers later. Only Start calls it, before
// any other goroutine uses the boxes.
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

// do runs one action, if it still applies.
func (m *Manager) do(ctx context.Context, a action) {
	m.mu.Lock()
	b, left := m.boxes[a.id], m.leaving[a.id]
	m.mu.Unlock()
	switch {
	case a.do == doEnd && b != nil:
		_, err := m.end(ctx, b, func(rec store.Sandbox) (store.Cause, string) {
			if a.cause == store.CauseExpired && m.now().Before(rec.ExpireTime) {
				return "", "" // the TTL of the sandbox was extended in the meantime
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
		m.spawn(func() { // in the background, because a guest can be slow and no caller needs the result
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

// removeStray removes a container that has no record.
func (m *Manager) removeStray(ctx context.Context, a action) {
	m.Logger.Warn("a container is removed", "sandbox", a.id, "reason", a.reason)
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	if err := m.Engine.Remove(ctx, a.id); err != nil {
		m.Logger.Warn("a container goes later", "sandbox", a.id, "error", err)
	}
}
