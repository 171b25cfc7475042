package manager

import (
	"context"
	"fmt"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// Update changes a sandbox's display name and its TTL. The new TTL counts from the time of the call.
func (m *Manager) Update(ctx context.Context, name string, req sandbox.UpdateRequest) (sandbox.Sandbox, error) {
	if err := req.Validate(); err != nil {
		return sandbox.Sandbox{}, err
	}
	b, err := m.find(ctx, name)
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	err = m.finish(ctx, func(ctx context.Context) error {
		return b.change(ctx, func() error { return m.update(ctx, b, req) })
	})
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	return m.view(b.record()), nil
}

// update does the work of Update. The caller must hold b.life.
func (m *Manager) update(ctx context.Context, b *box, req sandbox.UpdateRequest) error {
	if !b.alive() {
		return m.whyGone(ctx, b)
	}
	rec := b.record()
	if req.DisplayName != nil {
		rec.DisplayName = *req.DisplayName
	}
	if req.TTL != nil {
		rec.ExpireTime = m.now().Add(time.Duration(*req.TTL))
	}
	if err := m.Store.UpdateSandbox(b.id, rec.DisplayName, rec.ExpireTime); err != nil {
		return notRecorded(err)
	}
	b.mu.Lock()
	b.rec.DisplayName, b.rec.ExpireTime = rec.DisplayName, rec.ExpireTime
	b.mu.Unlock()
	if req.TTL != nil {
		m.expiryMoved()
		m.tell(ctx, b)
	}
	return nil
}

// tell sets the expiry in the guest to the recorded one, and reports whether it succeeded. If tell fails,
// reconcile calls it again later. tell does not call diagnose after a failure, because diagnose can terminate
// the sandbox, for which it would wait for b.life. The caller must hold b.life, unless the box is not in m.boxes
// yet.
func (m *Manager) tell(ctx context.Context, b *box) bool {
	if b.sleeps() {
		return false // after the next resume, awake calls tell
	}
	expires := b.expires()
	b.mu.Lock()
	b.told = time.Time{}
	b.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	defer context.AfterFunc(b.ctx, cancel)()
	if err := b.guest.SetExpiry(ctx, expires); err != nil {
		b.log.Warn("the guest does not know its expiry yet", "error", err)
		return false
	}
	b.mu.Lock()
	b.told, b.work = expires, true // the last checkpoint contains the old expiry, so a new checkpoint is needed
	b.mu.Unlock()
	return true
}

// Delete terminates a sandbox and removes its container. If the engine fails to remove the container, Delete
// still succeeds: the deletion is on record, and reconcile removes the container later.
func (m *Manager) Delete(ctx context.Context, name string) error {
	b, c, err := m.named(ctx, name)
	if err == nil && c != nil {
		c.cancel() // if it is too late to cancel, find waits for the sandbox
	}
	if b, err = m.find(ctx, name); err != nil {
		if c != nil && sandbox.KindOf(err) == sandbox.NotFound {
			return nil
		}
		return err
	}
	return m.finish(ctx, func(ctx context.Context) error {
		ended, err := m.end(ctx, b, func(store.Sandbox) (store.Cause, string) {
			return store.CauseDeleted, "it was deleted at " + stamp(m.now())
		})
		if err == nil && !ended {
			err = m.whyGone(ctx, b)
		}
		return err
	})
}

// endExpired terminates an expired sandbox. It does nothing if the TTL was extended in the meantime.
func (m *Manager) endExpired(ctx context.Context, b *box) error {
	_, err := m.end(ctx, b, func(rec store.Sandbox) (store.Cause, string) {
		if m.now().Before(rec.ExpireTime) {
			return "", ""
		}
		return store.CauseExpired, expiredReason(rec)
	})
	return err
}

// endDead terminates a sandbox whose container no longer runs. If the engine has no container for it, the
// parameter there is false and c is empty.
func (m *Manager) endDead(ctx context.Context, b *box, c engine.Container, there bool) error {
	_, err := m.end(ctx, b, func(rec store.Sandbox) (store.Cause, string) { return whyDead(rec, c, there, m.now()) })
	return err
}

func expiredReason(rec store.Sandbox) string { return "its time was over at " + stamp(rec.ExpireTime) }

// whyDead returns the cause and the reason to record for a sandbox whose container does not run. If the engine
// has no container for it, the parameter there is false and c is empty.
func whyDead(rec store.Sandbox, c engine.Container, there bool, now time.Time) (store.Cause, string) {
	switch {
	case !now.Before(rec.ExpireTime):
		return store.CauseExpired, expiredReason(rec)
	case !there:
		return store.CauseLost, "its container is no longer there (somebody removed it, or the engine lost it): its variables and files are lost"
	case c.Detail == "":
		return store.CauseLost, "its container stopped: its variables and files are lost"
	}
	return store.CauseLost, fmt.Sprintf("its container stopped (%s): its variables and files are lost", c.Detail)
}

// end terminates a sandbox and removes its container. While it holds b.life, it calls the parameter why with the
// current record to get the cause and the reason. If the cause is empty, or the sandbox was terminated already,
// end does nothing and ended is false. The record is written before the container is removed. The caller must
// not hold b.life.
func (m *Manager) end(ctx context.Context, b *box, why func(store.Sandbox) (store.Cause, string)) (ended bool, err error) {
	err = b.change(ctx, func() error {
		cause, reason := why(b.record())
		if cause == "" || !b.alive() {
			return nil
		}
		ended = true
		return m.endRecord(b, cause, reason)
	})
	if err == nil && ended {
		m.clear(b.id)
	}
	return ended, err
}

// endRecord marks a sandbox as terminated on disk and in memory, and moves it from m.boxes to m.leaving. It
// does not remove the container; the caller must call clear for that. The caller must hold b.life.
func (m *Manager) endRecord(b *box, cause store.Cause, reason string) error {
	rec := b.record()
	end := store.End{Cause: cause, Reason: reason, Time: m.now(), Used: rec.UsedTime, Executions: "its sandbox ended: " + reason}
	if err := m.Store.EndSandbox(b.id, end); err != nil {
		return notRecorded(err)
	}
	rec.State, rec.Cause, rec.Reason, rec.EndTime = sandbox.Terminated, cause, reason, end.Time
	b.mu.Lock()
	b.rec, b.ended = rec, true
	unfinished := b.allPending()
	b.mu.Unlock()
	m.lost(b, unfinished)
	m.mu.Lock()
	delete(m.boxes, b.id)
	m.leaving[b.id] = &remains{rec: rec}
	m.mu.Unlock()
	b.close()
	b.log.Info("a sandbox has ended", "cause", cause, "reason", reason)
	return nil
}

// clear removes the container of a terminated sandbox. If the engine fails to remove it, reconcile tries again.
// clear does nothing if another call is removing the container already.
func (m *Manager) clear(id sandbox.ID) {
	m.mu.Lock()
	left := m.leaving[id]
	if left == nil || left.clearing {
		m.mu.Unlock()
		return
	}
	left.clearing = true
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(m.ctx), removeTimeout)
	defer cancel()
	err := m.Engine.Remove(ctx, id)
	if err != nil {
		m.Logger.Warn("a container goes later", "sandbox", id, "error", err)
	} else {
		m.Store.ContainerGone(id)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	left.clearing = false
	if err == nil {
		delete(m.leaving, id)
	}
}

// alive reports whether the sandbox has not been terminated.
func (b *box) alive() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.ended
}
