package manager

import (
	"context"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
)

// worked marks that a sandbox may have changed since its last checkpoint. A checkpoint clears the mark when it
// begins and sets it again if it fails. The caller must have called hold or must hold b.life, so that no
// checkpoint is being made.
func (b *box) worked() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.work = true
}

// unsaved reports whether the sandbox should be checkpointed: it has been unused for at least the duration long,
// may have changed since its last checkpoint, and no delay after a failed checkpoint is under way. The caller
// must hold b.mu.
func (b *box) unsaved(long time.Duration) bool {
	return b.work && b.unused(long) && b.saving.over()
}

// checkpoint writes a checkpoint of a running sandbox, if one is still due, and lets the sandbox continue.
// During the checkpoint b.asleep is set, which keeps other calls from the guest, so no code runs in the state
// that is saved. The caller must hold b.life.
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

// notSaved lets a sandbox continue after a checkpoint or suspend failed before the engine suspended it, and
// sets the delay until the next attempt. p is b.suspending or b.saving. The caller must hold b.life.
func (m *Manager) notSaved(b *box, p *patience, cause error) {
	b.mu.Lock()
	b.asleep = false
	// While the disk is full, keep the delay at its minimum. The engine frees space when it compresses the
	// checkpoints of suspended sandboxes, and then each sandbox should soon be tried again.
	if cause == errDiskFull {
		p.putOff = 0
	}
	putOff := p.failed()
	b.mu.Unlock()
	if cause != errDiskFull { // a full disk is logged by diskIsFull
		b.log.Warn("the state of a sandbox could not be saved", "error", cause, "again in", putOff)
	}
}
