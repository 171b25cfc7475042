package manager

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/lifecycle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

var errDiskFull = errors.New("checkpoints use all the disk space that --max-disk allows")

// disk tracks the disk space that checkpoints use or are about to use.
type disk struct {
	reserving sync.Mutex // held while space is reserved; see the lock order in the package comment

	mu      sync.Mutex
	writing map[sandbox.ID]int64 // reservations: estimated bytes of the checkpoints that are being written
	full    bool                 // checkpoints use all the space that MaxDisk allows
}

// reserved returns a copy of the reservations.
func (d *disk) reserved() map[sandbox.ID]int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.writing)
}

// reserve adds a reservation and returns the function that removes it.
func (d *disk) reserve(id sandbox.ID, bytes int64) (release func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.writing[id] = bytes
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.writing, id)
	}
}

func (d *disk) isFull() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.full
}

// setFull records whether checkpoints use all the space that MaxDisk allows, and reports whether that is a change.
func (d *disk) setFull(full bool) (changed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	changed = d.full != full
	d.full = full
	return changed
}

// reserveDisk reserves space for a checkpoint of s within MaxDisk. If there is too little space and discard is
// true, it deletes checkpoints of running sandboxes. If there is still too little, it returns errDiskFull. The
// caller must call release, which is never nil, after the checkpoint has been written or has failed. The
// reservation is not needed any more at that time, because the engine's StateBytes include the checkpoint. The
// caller must hold the Transition of s, and its state must not be Running, so that no other call reaches the guest.
func (m *Manager) reserveDisk(ctx context.Context, s *liveSandbox, discard bool) (release func(), err error) {
	nothing := func() {}
	if m.cfg.MaxDisk == 0 || m.pauses() {
		return nothing, nil
	}
	need := s.estimateCheckpoint(ctx)
	m.disk.reserving.Lock()
	defer m.disk.reserving.Unlock()
	// Copy the reservations before asking the engine. A checkpoint that is completed between these two steps is
	// then in both, and counted once. In the other order, it could be in neither.
	reserved := m.disk.reserved()
	containers, err := m.inspect(ctx)
	if err != nil {
		return nothing, err
	}
	if need == 0 {
		need = containers[s.id].StateBytes
	}
	over := need - m.cfg.MaxDisk
	for id, c := range containers {
		if id != s.id { // skip the old checkpoint of s, because the new one replaces it
			over += max(c.StateBytes, reserved[id])
		}
	}
	if over > 0 && discard {
		over -= m.discardCheckpoints(ctx, s, containers, over)
	}
	switch {
	case over > 0:
		m.setDiskFull(true)
	// Withdraw the warning only when 5% of the space is free, so that it does not appear and disappear repeatedly.
	case over < -m.cfg.MaxDisk/20:
		m.setDiskFull(false)
	}
	if over > 0 {
		return nothing, errDiskFull
	}
	return m.disk.reserve(s.id, need), nil
}

// setDiskFull records whether checkpoints use all the space that MaxDisk allows, and logs each change once.
func (m *Manager) setDiskFull(full bool) {
	switch {
	case !m.disk.setFull(full):
	case full:
		m.log.Warn("checkpoints use all the disk space that they may: idle sandboxes stay in memory", "max-disk", m.cfg.MaxDisk)
	default:
		m.log.Info("there is disk space for checkpoints again")
	}
}

// estimateCheckpoint returns the memory that the sandbox uses, in bytes, which is the upper limit of the size of
// its checkpoint. It returns 0 if the guest does not answer.
func (s *liveSandbox) estimateCheckpoint(ctx context.Context) int64 {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	st, err := s.guest.Status(ctx)
	if err != nil {
		return 0
	}
	return st.Usage.MemoryBytes
}

// discardCheckpoints deletes checkpoints of running sandboxes, the oldest first, until it has freed at least need
// bytes. It keeps the checkpoint of the sandbox in the parameter except. It returns the number of bytes freed. The
// caller must hold disk.reserving.
func (m *Manager) discardCheckpoints(ctx context.Context, except *liveSandbox, containers map[sandbox.ID]engine.Container, need int64) (freed int64) {
	checkpointer, ok := engine.As[engine.Checkpointer](m.engine)
	if !ok {
		return 0
	}
	candidates := m.registry.list(func(s *liveSandbox) bool {
		c := containers[s.id]
		return s != except && c.Running && c.StateBytes > 0
	})
	slices.SortFunc(candidates, func(x, y *liveSandbox) int { return x.record().SavedTime.Compare(y.record().SavedTime) })
	for _, s := range candidates {
		if freed >= need {
			break
		}
		t, ok := s.life.TryBegin()
		if !ok {
			continue
		}
		if s.discardCheckpoint(ctx, t, checkpointer) {
			freed += containers[s.id].StateBytes
		}
		t.End()
	}
	return freed
}

// discardCheckpoint deletes the checkpoint of a sandbox and reports whether it did. It does nothing unless the
// sandbox is running, because the checkpoint of a suspended sandbox is the only copy of its state.
func (s *liveSandbox) discardCheckpoint(ctx context.Context, t *lifecycle.Transition, checkpointer engine.Checkpointer) bool {
	if t.State() != lifecycle.Running {
		return false
	}
	if err := checkpointer.Discard(ctx, s.id); err != nil {
		s.log.Warn("a checkpoint could not be deleted", "error", err)
		return false
	}
	s.mu.Lock()
	s.rec.SavedTime, s.changed = time.Time{}, true
	s.mu.Unlock()
	s.m.store.SetSaved(s.id, time.Time{})
	s.log.Info("the checkpoint of a running sandbox was deleted to suspend another sandbox")
	return true
}

// Warnings returns problems that the person who runs the daemon should know about, one sentence each.
func (m *Manager) Warnings() []string {
	if !m.disk.isFull() {
		return nil
	}
	return []string{fmt.Sprintf("checkpoints use all the disk space that they may, %d MB (--max-disk): idle sandboxes stay in memory, and running sandboxes are not checkpointed; delete sandboxes that are not needed, or allow more disk space",
		cmp.Or(m.cfg.MaxDisk/sandbox.MiB, 1))}
}
