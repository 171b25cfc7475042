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

// If the engine supports it, new sandboxes start from a snapshot. A snapshot is made from a sandbox with the same
// spec whose kernel is ready and has imported the packages that most code uses, but has run no client's code.
// Starting from a snapshot takes a fraction of the time of a normal start.

const (
	// prepareAfter delays the snapshot so that it does not compete with the sandbox just requested.
	prepareAfter = 2 * time.Second
	readyTimeout = 2 * time.Minute // time for a kernel to become ready before its sandbox is made a snapshot
)

func (m *Manager) snapshots() bool {
	_, can := engine.As[engine.Snapshotter](m.Engine)
	return can
}

func specOf(rec store.Sandbox) engine.Spec {
	return engine.Spec{ID: rec.ID, Image: rec.Image, Limits: rec.Limits, UID: rec.UID, Expires: rec.ExpireTime, Language: rec.Language}
}

// usual returns the spec of the sandboxes that are requested most often: default image and limits, Python.
func (m *Manager) usual() engine.Spec {
	return engine.Spec{Image: m.DefaultImage, Limits: m.Limits, UID: snapshotUID, Language: sandbox.Python}
}

// launch starts the container of a new sandbox, from a snapshot if possible. On failure a container may exist
// nevertheless; the caller must remove it.
func (m *Manager) launch(ctx context.Context, rec store.Sandbox) (*box, error) {
	spec := specOf(rec)
	rec.State = sandbox.Running
	b := m.newBox(rec)
	started, err := m.startFromSnapshot(ctx, b, spec)
	if err != nil {
		b.log.Warn("a sandbox is not started from a snapshot", "error", err)
		err = m.Engine.Remove(ctx, rec.ID)
	}
	if err == nil && !started {
		err = m.Engine.Create(ctx, spec)
		b.told = rec.ExpireTime
		m.prepare(spec)
	}
	return b, err
}

func (m *Manager) startFromSnapshot(ctx context.Context, b *box, spec engine.Spec) (started bool, err error) {
	s, can := engine.As[engine.Snapshotter](m.Engine)
	if !can || spec.UID != snapshotUID {
		return false, nil
	}
	if started, err = s.Start(ctx, spec); started {
		err = m.begins(ctx, b, guest.Awakening{Copy: true})
	}
	return started && err == nil, err
}

// prepare starts a background task that makes a snapshot for the spec after prepareAfter. The task does nothing
// if an earlier snapshot failed too recently, or if the engine has a snapshot for the spec already.
func (m *Manager) prepare(spec engine.Spec) {
	m.spawn(func() {
		select {
		case <-time.After(prepareAfter):
		case <-m.ctx.Done():
			return
		}
		s, can := engine.As[engine.Snapshotter](m.Engine)
		m.mu.Lock()
		can = can && m.preparing.over()
		m.mu.Unlock()
		if !can {
			return
		}
		spec.ID, spec.UID = sandbox.NewID(), snapshotUID
		ctx, cancel := context.WithTimeout(m.ctx, createTimeout)
		defer cancel()
		err := s.Snapshot(ctx, spec, func(ctx context.Context) error { return m.untilReady(ctx, spec) })
		m.prepared(err)
	})
}

// prepared records the result of making a snapshot. After a failure, no snapshot is made until the backoff has
// passed.
func (m *Manager) prepared(err error) {
	if m.ctx.Err() != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		m.preparing = patience{}
		return
	}
	again := m.preparing.failed()
	m.Logger.Warn("there is no snapshot to start sandboxes from", "error", err, "again in", again)
}

// untilReady returns when the kernel of the sandbox that a snapshot is made from is ready. The engine starts
// that sandbox only for the snapshot, so it has no record and no owner.
func (m *Manager) untilReady(ctx context.Context, spec engine.Spec) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, errors.New("its kernel is not ready in time"))
	defer cancel()
	b := m.newBox(store.Sandbox{ID: spec.ID, Language: spec.Language})
	defer b.close()
	return b.guest.Prepare(ctx, spec.Language)
}
