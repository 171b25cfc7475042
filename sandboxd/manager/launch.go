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

// Where the engine can, new sandboxes start from a snapshot: of one that was made like them and whose kernel is ready, with what most
// code imports, but in which nobody's code has run. It takes a fraction of the time.

const (
	// prepareAfter is how long a snapshot waits to be made, so as to be in nobody's way who has just asked for a sandbox.
	prepareAfter = 2 * time.Second
	readyTimeout = 2 * time.Minute // for a kernel to be ready
)

func (m *Manager) snapshots() bool {
	_, can := engine.As[engine.Snapshotter](m.Engine)
	return can
}

func specOf(rec store.Sandbox) engine.Spec {
	return engine.Spec{ID: rec.ID, Image: rec.Image, Limits: rec.Limits, UID: rec.UID, Expires: rec.ExpireTime, Language: rec.Language}
}

// usual is what is asked for most.
func (m *Manager) usual() engine.Spec {
	return engine.Spec{Image: m.DefaultImage, Limits: m.Limits, UID: snapshotUID, Language: sandbox.Python}
}

// launch makes a new sandbox's container. On failure there may be one nevertheless.
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

// prepare sees to it, in a while, that there is a snapshot for a spec.
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

// prepared notes how a snapshot went. After a failure none is made for a while.
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

// untilReady returns when the kernel of a sandbox that nobody has is ready for a snapshot.
func (m *Manager) untilReady(ctx context.Context, spec engine.Spec) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, errors.New("its kernel is not ready in time"))
	defer cancel()
	b := m.newBox(store.Sandbox{ID: spec.ID, Language: spec.Language})
	defer b.close()
	return b.guest.Prepare(ctx, spec.Language)
}
