package manager

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/capacity"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// If the engine supports it, new sandboxes start from a snapshot. A snapshot is made from a sandbox with the same
// spec whose kernel is ready and has imported the packages that most code uses, but has run no client's code.
// Starting from a snapshot takes a fraction of the time of a normal start.

const (
	// snapshotDelay delays the snapshot so that it does not compete with the sandbox just requested.
	snapshotDelay = 2 * time.Second
	readyTimeout  = 2 * time.Minute // time for a kernel to become ready before its sandbox is made a snapshot
)

// snapshots contains the delay after a failed snapshot.
type snapshots struct {
	mu    sync.Mutex
	delay backoff
}

func (m *Manager) hasSnapshots() bool {
	_, can := engine.As[engine.Snapshotter](m.engine)
	return can
}

func specOf(rec store.Sandbox) engine.Spec {
	return engine.Spec{ID: rec.ID, Image: rec.Image, Limits: rec.Limits, UID: rec.UID, Expires: rec.ExpireTime, Language: rec.Language}
}

// prepareDefaultSnapshot starts a background task that makes a snapshot for sandboxes that are created without
// parameters.
func (m *Manager) prepareDefaultSnapshot() {
	rec, err := m.newRecord(sandbox.Operator, sandbox.CreateRequest{})
	if err != nil {
		m.log.Error("a request without parameters is refused, so no snapshot is made for it", "error", err)
		return
	}
	m.prepareSnapshot(specOf(rec))
}

// start starts the container of a new sandbox, from a snapshot if possible. On failure a container may exist
// nevertheless; the caller must remove it. The caller must hold the Transition.
func (s *liveSandbox) start(ctx context.Context) error {
	spec := specOf(s.record())
	started, err := s.startFromSnapshot(ctx, spec)
	if started {
		return nil
	}
	if err != nil {
		s.log.Warn("a sandbox could not be started from a snapshot; it is started from its image", "error", err)
		if err := s.m.engine.Remove(ctx, s.id); err != nil {
			return err
		}
	}
	err = s.m.engine.Create(ctx, spec)
	s.mu.Lock()
	s.guestExpiry = spec.Expires
	s.mu.Unlock()
	s.m.prepareSnapshot(spec)
	return err
}

func (s *liveSandbox) startFromSnapshot(ctx context.Context, spec engine.Spec) (started bool, err error) {
	snapshotter, can := engine.As[engine.Snapshotter](s.m.engine)
	if !can || spec.UID != capacity.SharedUID {
		return false, nil
	}
	if started, err = snapshotter.Start(ctx, spec); started {
		err = s.prepareGuest(ctx, guest.Restore{Forked: true})
	}
	return started && err == nil, err
}

// prepareGuest prepares the guest of a sandbox that was started with the memory of another sandbox. It informs the
// guest that its memory was copied. It also sets the guest's expiry, because the memory contains the expiry of
// the other sandbox, which may have passed. The caller must hold the Transition.
func (s *liveSandbox) prepareGuest(ctx context.Context, restore guest.Restore) error {
	set := make(chan bool, 1)
	// Make both calls concurrently. Each takes a while, because the restored memory is still being read from disk.
	go func() { set <- s.setGuestExpiry(ctx) }()
	err := s.reportRestore(ctx, restore)
	if !<-set && err == nil {
		err = errors.New("the expiry could not be set in the guest")
	}
	return err
}

// prepareSnapshot starts a background task that makes a snapshot for the spec after snapshotDelay. The task does
// nothing if an earlier snapshot failed too recently, or if the engine has a snapshot for the spec already.
func (m *Manager) prepareSnapshot(spec engine.Spec) {
	m.spawn(func() {
		select {
		case <-time.After(snapshotDelay):
		case <-m.ctx.Done():
			return
		}
		snapshotter, can := engine.As[engine.Snapshotter](m.engine)
		if !can || !m.snapshots.due() {
			return
		}
		spec.ID, spec.UID = sandbox.NewID(), capacity.SharedUID
		ctx, cancel := context.WithTimeout(m.ctx, createTimeout)
		defer cancel()
		err := snapshotter.Snapshot(ctx, spec, func(ctx context.Context) error { return m.untilReady(ctx, spec) })
		if m.ctx.Err() != nil {
			return
		}
		if again := m.snapshots.done(err); err != nil {
			m.log.Warn("a snapshot to start sandboxes from could not be made", "error", err, "again in", again)
		}
	})
}

// due reports whether a snapshot may be made now.
func (s *snapshots) due() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.delay.elapsed()
}

// done records the result of making a snapshot. After a failure it returns the delay until the next attempt.
func (s *snapshots) done(err error) (again time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.delay = backoff{}
		return 0
	}
	return s.delay.fail()
}

// untilReady returns when the kernel of the sandbox that a snapshot is made from is ready. The engine starts
// that sandbox only for the snapshot, so it has no record and no owner.
func (m *Manager) untilReady(ctx context.Context, spec engine.Spec) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, errors.New("the kernel did not become ready in time"))
	defer cancel()
	s := m.newSandbox(store.Sandbox{ID: spec.ID, Language: spec.Language})
	defer s.close()
	return s.guest.Prepare(ctx, spec.Language)
}
