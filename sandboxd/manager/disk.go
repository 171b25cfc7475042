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
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

var errDiskFull = errors.New("the saved states take as much as --max-disk allows")

// disk tracks the disk space that checkpoints use or are about to use. saving and full are guarded by
// Manager.mu.
type disk struct {
	reserving sync.Mutex // held while space is reserved; see the lock order in the package comment

	saving map[sandbox.ID]int64 // reservations: estimated bytes of the checkpoints that are being written
	full   bool                 // checkpoints take as much space as MaxDisk allows
}

// reserveDisk reserves space for a checkpoint of b within MaxDisk. If there is not enough space and discard is
// true, it deletes checkpoints of running sandboxes. It returns errDiskFull if that is not enough. The caller
// must call freed, which is never nil, after the checkpoint has been written or has failed. After that no
// reservation is needed, because the engine's StateBytes include the checkpoint. The caller must hold b.life and
// have set b.asleep, so that no other call reaches the guest.
func (m *Manager) reserveDisk(ctx context.Context, b *box, discard bool) (freed func(), err error) {
	if m.MaxDisk == 0 || m.pauses() {
		return func() {}, nil
	}
	need := m.estimate(ctx, b)
	m.disk.reserving.Lock()
	defer m.disk.reserving.Unlock()
	// Copy the reservations before asking the engine. A checkpoint that is completed between these two steps is
	// then in both, and counted once. In the other order, it could be in neither.
	m.mu.Lock()
	saving := maps.Clone(m.disk.saving)
	m.mu.Unlock()
	containers, err := m.inspect(ctx)
	if err != nil {
		return func() {}, err
	}
	if need == 0 {
		need = containers[b.id].StateBytes
	}
	over := need - m.MaxDisk
	for id, c := range containers {
		if id != b.id { // skip the old checkpoint of b, because the new one replaces it
			over += max(c.StateBytes, saving[id])
		}
	}
	if over > 0 && discard {
		over -= m.discardSaved(ctx, b, containers, over)
	}
	switch {
	case over > 0:
		m.diskIsFull(true)
	// Withdraw the warning only when 5% are free, so that it does not appear and disappear all the time.
	case over < -m.MaxDisk/20:
		m.diskIsFull(false)
	}
	if over > 0 {
		return func() {}, errDiskFull
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.disk.saving[b.id] = need
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.disk.saving, b.id)
	}, nil
}

// estimate returns the memory that the sandbox uses, in bytes, which is the upper limit of the size of its
// checkpoint. It returns 0 if the guest does not answer.
func (m *Manager) estimate(ctx context.Context, b *box) int64 {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	st, err := b.guest.Status(ctx)
	if err != nil {
		return 0
	}
	return st.Usage.MemoryBytes
}

// discardSaved deletes checkpoints of running sandboxes, the oldest first, until it has freed at least need
// bytes. It skips the sandbox of the parameter but. It returns the number of bytes freed. The caller must hold
// disk.reserving.
func (m *Manager) discardSaved(ctx context.Context, but *box, containers map[sandbox.ID]engine.Container, need int64) (freed int64) {
	c, ok := engine.As[engine.Checkpointer](m.Engine)
	if !ok {
		return 0
	}
	m.mu.Lock()
	boxes := m.allBoxes()
	m.mu.Unlock()
	slices.SortFunc(boxes, func(x, y *box) int { return x.record().SavedTime.Compare(y.record().SavedTime) })
	for _, b := range boxes {
		size := containers[b.id].StateBytes
		if freed >= need {
			break
		}
		if b == but || size == 0 || !containers[b.id].Running {
			continue
		}
		b.tryChange(func() {
			if b.sleeps() { // b has been suspended since the list was made: its checkpoint is the only copy of its state
				return
			}
			if err := c.Discard(ctx, b.id); err != nil {
				b.log.Warn("a saved state could not be discarded", "error", err)
				return
			}
			freed += size
			b.mu.Lock()
			b.rec.SavedTime, b.work = time.Time{}, true
			b.mu.Unlock()
			m.Store.SetSaved(b.id, time.Time{})
			b.log.Info("the saved state of a sandbox that runs was discarded, for one that is suspended")
		})
	}
	return freed
}

// diskIsFull records whether checkpoints use all the space that MaxDisk allows, and logs each change once.
func (m *Manager) diskIsFull(full bool) {
	m.mu.Lock()
	was := m.disk.full
	m.disk.full = full
	m.mu.Unlock()
	switch {
	case full && !was:
		m.Logger.Warn("saved states take as much disk as they may: idle sandboxes stay in memory", "max-disk", m.MaxDisk)
	case was && !full:
		m.Logger.Info("there is room for saved states again")
	}
}

// Warnings returns problems that the person who runs the daemon should know about, one sentence each.
func (m *Manager) Warnings() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.disk.full {
		return nil
	}
	return []string{fmt.Sprintf("saved states take as much disk as they may, %d MB (--max-disk): idle sandboxes stay in memory, and what runs is not saved; delete sandboxes that are not needed, or allow more",
		cmp.Or(m.MaxDisk/sandbox.MiB, 1))}
}

// pauses reports whether the engine suspends sandboxes only by pausing them. A paused sandbox keeps its memory.
func (m *Manager) pauses() bool { return m.Engine.Info().Suspend == engine.Paused }
