package manager

import (
	"context"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
)

// worked marks that a sandbox may have changed since its last checkpoint. A checkpoint clears the mark when it begins and sets it
// again if it fails. The caller must hold the sandbox or be in b.change, so that no checkpoint is being made.
func (b *box) worked() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.work = true
}

// unsaved reports whether a sandbox has rested for so long and may have changed since its state was saved, with mu held.
func (b *box) unsaved(long time.Duration) bool {
	return b.work && b.unused(long) && b.saving.over()
}

// checkpoint saves the state of a sandbox, if that is due still, and lets it run on. Nobody reaches its guest meanwhile:
// what is saved is a state in which nothing runs. It is called by whoever changes its life.
func (m *Manager) checkpoint(ctx context.Context, c engine.Checkpointer, b *box) {
	b.mu.Lock()
	due := b.unsaved(m.CheckpointEvery)
	if due {
		b.asleep, b.work = true, false
		b.moves++
	}
	b.mu.Unlock()
	if !due {
		return
	}
	defer b.move()
	start, at := time.Now(), m.now()
	freed, err := m.reserveDisk(ctx, b, false)
	defer freed()
	if err == nil {
		b.guest.Close()
		limited, cancel := context.WithTimeout(ctx, suspendTimeout)
		defer cancel()
		err = c.Checkpoint(limited, b.id)
	}
	if err != nil {
		b.worked()
		if ctx.Err() == nil {
			m.notSaved(b, &b.saving, err)
		}
		return
	}
	m.Store.SetSaved(b.id, at)
	b.mu.Lock()
	b.asleep, b.saving.putOff, b.rec.SavedTime = false, 0, at
	b.mu.Unlock()
	b.log.Info("the state of a sandbox was saved", "took", time.Since(start))
}

// notSaved has a sandbox go on whose state was not saved, and that puts off.
func (m *Manager) notSaved(b *box, p *patience, cause error) {
	b.mu.Lock()
	b.asleep = false
	if cause == errDiskFull { // each time it may be another's turn: what sleeps is compressed soon
		p.putOff = 0
	}
	putOff := p.failed()
	b.mu.Unlock()
	if cause != errDiskFull { // which was said once, for all
		b.log.Warn("the state of a sandbox could not be saved", "error", cause, "again in", putOff)
	}
}
