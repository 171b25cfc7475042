package manager

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/lifecycle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/reconcile"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

const (
	sweepEvery = 30 * time.Second // the longest time until a container that stopped without a request is detected
	pruneEvery = time.Hour
	atOnce     = 4 // how many actions of reconcile, or suspends or checkpoints of idleLoop, run at the same time
)

// sweepLoop reconciles the records with the engine every sweepEvery. After a failure it retries sooner, with a
// growing delay. It also deletes old records every pruneEvery. The parameter failed is true if the first
// reconcile, which Start runs, failed.
func (m *Manager) sweepLoop(failed bool) {
	delay := time.Second
	var pruned time.Time
	for {
		if time.Since(pruned) >= pruneEvery {
			pruned = time.Now()
			if err := m.store.Prune(m.now()); err != nil {
				m.log.Error("old records could not be deleted", "error", err)
			}
		}
		pause := sweepEvery
		if failed {
			pause, delay = delay, min(2*delay, sweepEvery)
		} else {
			delay = time.Second
		}
		select {
		case <-time.After(pause):
		case <-m.ctx.Done():
			return
		}
		m.storeUsed()
		if !failed && len(m.registry.list()) == 0 {
			continue
		}
		err := m.reconcile(m.ctx)
		if (err != nil) != failed && m.ctx.Err() == nil {
			failed = err != nil
			if failed {
				m.log.Warn("the engine does not answer", "error", err)
			} else {
				m.log.Info("the engine answers again")
			}
		}
	}
}

// reconcile removes the differences between the records and the engine's containers. It returns an error only if the
// engine cannot list its containers. If an action fails, the failure is logged, and the next reconcile plans the
// action again.
func (m *Manager) reconcile(ctx context.Context) error {
	plan, err := m.plan(ctx)
	if err != nil {
		return err
	}
	// The plan lists all actions on one sandbox together. They run one after another, in the order of the plan.
	// Actions on different sandboxes run concurrently.
	var groups [][]reconcile.Action
	for _, a := range plan {
		if n := len(groups); n > 0 && groups[n-1][0].ID == a.ID {
			groups[n-1] = append(groups[n-1], a)
		} else {
			groups = append(groups, []reconcile.Action{a})
		}
	}
	each(groups, func(group []reconcile.Action) {
		for _, a := range group {
			m.do(m.ctx, a)
		}
	})
	return nil
}

// terminateAllDead terminates the sandboxes whose containers no longer run or whose TTL has ended. It returns when
// these terminations are on record or have failed. If ctx ends or the engine does not answer, it returns early, and
// the records may be unchanged.
func (m *Manager) terminateAllDead(ctx context.Context) {
	if len(m.registry.list()) == 0 {
		return
	}
	_ = m.finish(ctx, func(ctx context.Context) error {
		plan, err := m.plan(ctx)
		if err != nil {
			return err
		}
		var recorded sync.WaitGroup
		for _, a := range plan {
			s := m.registry.get(a.ID)
			if a.Do != reconcile.Terminate || s == nil {
				continue
			}
			recorded.Add(1)
			done := sync.OnceFunc(recorded.Done)
			// s.ctx ends when the termination is on record. Do not wait longer: removing the container can be slow.
			context.AfterFunc(s.ctx, done)
			if !m.spawn(func() { defer done(); m.do(m.ctx, a) }) {
				done()
			}
		}
		recorded.Wait()
		return nil
	})
}

// plan returns the actions that remove the differences between the records and the engine's containers.
func (m *Manager) plan(ctx context.Context) ([]reconcile.Action, error) {
	// Read the versions of all sandboxes before asking the engine, so that m.known can detect which sandboxes changed
	// while the engine made its list. If a sandbox starts during that time, the list may not contain it. If it is
	// suspended or resumed during that time, the list may show it as neither running nor suspended.
	versions := map[sandbox.ID]int{}
	for _, s := range m.registry.list() {
		_, versions[s.id] = s.life.Version()
	}
	containers, err := m.inspect(ctx)
	if err != nil {
		return nil, err
	}
	return reconcile.Plan(m.known(versions), slices.Collect(maps.Values(containers)), m.now()), nil
}

// known returns the sandboxes to compare with the engine's list. versions contains the version that each sandbox
// had before the list was requested. A sandbox is marked as busy if it has changed since then, if it is changing
// now, or if its container is being removed. The plan contains no action for a busy sandbox.
func (m *Manager) known(versions map[sandbox.ID]int) []reconcile.Known {
	var all []reconcile.Known
	for _, s := range m.registry.list() {
		s.mu.Lock()
		k := reconcile.Known{Record: s.rec, GuestExpiry: s.guestExpiry}
		s.mu.Unlock()
		state, version := s.life.Version()
		before, existed := versions[s.id]
		k.Busy = !existed || version != before
		switch state {
		case lifecycle.Terminated:
			k.Busy = k.Busy || s.removing.Load()
		case lifecycle.Provisioning:
			k.Busy = k.Busy || s.creation.isUnderWay()
		default:
			k.Busy = k.Busy || !state.Settled()
		}
		all = append(all, k)
	}
	return all
}

// terminateInterrupted terminates the sandboxes that the previous daemon was still creating. It only changes
// records, so it works even if the engine does not answer; reconcile removes the containers later. Only Start
// calls it.
func (m *Manager) terminateInterrupted(ctx context.Context) {
	for _, s := range m.registry.list(func(s *liveSandbox) bool { return s.life.State() == lifecycle.Provisioning }) {
		err := s.during(ctx, func(t *lifecycle.Transition) error { return s.terminate(t, store.CauseFailed, reconcile.Interrupted) })
		if err != nil {
			s.log.Error("a sandbox could not be terminated; the next sweep tries again", "error", err)
		}
	}
}

// do runs one action, if it still applies.
func (m *Manager) do(ctx context.Context, a reconcile.Action) {
	s := m.registry.get(a.ID)
	if s == nil {
		if a.Do == reconcile.Remove {
			m.removeUnrecorded(ctx, a)
		}
		return
	}
	switch a.Do {
	case reconcile.Terminate:
		_, err := s.terminateIf(ctx, func(rec store.Sandbox) (store.Cause, string) {
			if a.Cause == store.CauseExpired && m.now().Before(rec.ExpireTime) {
				return "", "" // the TTL of the sandbox was extended in the meantime
			}
			return a.Cause, a.Reason
		})
		if err != nil {
			s.log.Error("a sandbox could not be terminated; the next sweep tries again", "error", err)
		}
	case reconcile.Adopt:
		if err := s.adopt(ctx); err != nil {
			s.log.Warn("the record of a sandbox could not be corrected; the next sweep tries again", "error", err)
		}
	case reconcile.SetExpiry:
		m.spawn(func() { // in the background, because a guest can be slow and no caller needs the result
			m.expirySetting <- struct{}{}
			defer func() { <-m.expirySetting }()
			_ = s.during(ctx, func(t *lifecycle.Transition) error { s.updateGuestExpiry(ctx, t); return nil })
		})
	case reconcile.Remove:
		if s.isTerminated() {
			s.removeContainer()
		}
	case reconcile.MarkRemoved:
		if s.isTerminated() {
			s.markRemoved()
		}
	}
}

// removeUnrecorded removes a container that has no record.
func (m *Manager) removeUnrecorded(ctx context.Context, a reconcile.Action) {
	m.log.Warn("a container is removed", "sandbox", a.ID, "reason", a.Reason)
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	if err := m.engine.Remove(ctx, a.ID); err != nil {
		m.log.Warn("a container could not be removed; the next sweep tries again", "sandbox", a.ID, "error", err)
	}
}
