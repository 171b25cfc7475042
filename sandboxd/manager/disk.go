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

// disk is what saved states take, and are about to take. Under the manager's mu, but for reserving.
type disk struct {
	reserving sync.Mutex // held by who finds room for one: taken before mu

	saving map[sandbox.ID]int64 // what is being saved now, as estimated
	full   bool                 // the last that was to be saved had no room
}

// reserveDisk finds room for a sandbox's saved state within --max-disk, which freed gives back: when the state
// is there, the engine counts it. If need be and it may, it discards what is kept of sandboxes that run.
// It is called by whoever changes the sandbox's life and keeps everybody else from its guest.
func (m *Manager) reserveDisk(ctx context.Context, b *box, discard bool) (freed func(), err error) {
	if m.MaxDisk == 0 || m.pauses() {
		return func() {}, nil
	}
	need := m.estimate(ctx, b)
	m.disk.reserving.Lock()
	defer m.disk.reserving.Unlock()
	// What is saved before the engine is asked may not be in its answer, and no longer be here afterwards.
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
		if id != b.id { // whose own state is replaced
			over += max(c.StateBytes, saving[id])
		}
	}
	if over > 0 && discard {
		over -= m.discardSaved(ctx, b, containers, over)
	}
	switch {
	case over > 0:
		m.diskIsFull(true)
	case over < -m.MaxDisk/20: // nearly full is full: else it would be so one moment and not the next
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

// estimate is what a sandbox's memory takes, which is what its saved state takes at most, or 0 if its guest does not say.
func (m *Manager) estimate(ctx context.Context, b *box) int64 {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	st, err := b.guest.Status(ctx)
	if err != nil {
		return 0
	}
	return st.Usage.MemoryBytes
}

// discardSaved drops what is kept of sandboxes that run, the oldest first, until it makes up for
// need bytes. It returns how many those are.
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
			if b.sleeps() { // by now: it is all that there is of it
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

// diskIsFull notes, and says once, that there is no room for saved states, or that there is again.
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

// Warnings says what is not as it should be, for who runs the daemon.
func (m *Manager) Warnings() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.disk.full {
		return nil
	}
	return []string{fmt.Sprintf("saved states take as much disk as they may, %d MB (--max-disk): idle sandboxes stay in memory, and what runs is not saved; delete sandboxes that are not needed, or allow more",
		cmp.Or(m.MaxDisk/sandbox.MiB, 1))}
}

// pauses reports whether the engine only pauses: what is suspended stays in memory.
func (m *Manager) pauses() bool { return m.Engine.Info().Suspend == engine.Paused }
