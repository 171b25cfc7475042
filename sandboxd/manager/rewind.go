package manager

import (
	"context"
	"fmt"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// findRewound checks whether the processes of a sandbox died before the engine could save their latest state. If
// so, the engine can only resume an older checkpoint, and findRewound records the rewind to it. It must be
// called before the sandbox is resumed or forked. The caller must hold b.life.
func (m *Manager) findRewound(ctx context.Context, b *box) error {
	containers, err := m.inspect(ctx)
	if err != nil {
		return err
	}
	if c := containers[b.id]; c.Suspended && !c.AsOf.IsZero() {
		return m.rewind(b, c.AsOf)
	}
	return nil
}

// rewind records that a sandbox went back to its state as of asOf, before any client can see that state.
// Executions that had not begun stay pending and will still run. Other unfinished executions are lost, and
// those that ended after asOf are marked as undone. The caller must hold b.life.
func (m *Manager) rewind(b *box, asOf time.Time) error {
	rec := b.record()
	if known := rec.Rewound; rec.State == sandbox.Suspended && known.Owed && known.AsOf.Equal(asOf) {
		return nil
	}
	b.mu.Lock()
	b.asleep, b.room = true, false
	b.mu.Unlock()
	how := fmt.Sprintf("the sandbox's processes died (its machine stopped, or they were killed), and it went back to its state as of %s", stamp(asOf))
	keep := b.unbegun()
	done, err := m.Store.Rewind(b.id, store.Rewinding{
		AsOf: asOf, Time: m.now(), Keep: keep,
		Lost:   how + ": whatever this did is undone",
		Undone: how + ": what this did is undone, and its output is gone",
	})
	if err != nil {
		return notRecorded(err)
	}
	b.mu.Lock()
	b.rec.State, b.rec.Rewound, b.rec.SavedTime, b.told = sandbox.Suspended, done, done.AsOf, time.Time{}
	kept := make(map[sandbox.ExecutionID]*pending, len(keep))
	for _, id := range keep {
		if p := b.pending[id]; p != nil { // the execution has not ended in the meantime
			kept[id] = p
			delete(b.pending, id)
		}
	}
	undone := b.allPending()
	b.pending = kept
	b.mu.Unlock()
	m.lost(b, undone)
	m.Store.SetSaved(b.id, done.AsOf)
	b.log.Warn("the processes of a sandbox died: it goes on from a saved state", "as of", asOf)
	return nil
}

// tellRewound informs the guest of a rewound sandbox about the rewind. No client may use the sandbox before
// tellRewound has succeeded. tellRewound does nothing if the guest has been informed already. The caller must
// hold b.life.
func (m *Manager) tellRewound(ctx context.Context, b *box) error {
	r := b.record().Rewound
	if !r.Owed {
		return nil
	}
	b.guest.Close() // close old connections, so that the next call dials a new one
	if err := m.awaken(ctx, b, guest.Awakening{AsOfUnix: r.AsOf.Unix(), EpochAbove: r.Epoch}); err != nil {
		return sandbox.Errorf(sandbox.Unavailable, "sandbox %s was resumed, and does not answer yet; nothing of it is lost: try again", b.id).WithCause(err)
	}
	return nil
}

// awaken informs a guest that its memory was restored from a checkpoint or snapshot, or copied by a fork. The
// guest cannot detect that itself.
func (m *Manager) awaken(ctx context.Context, b *box, a guest.Awakening) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	err := b.guest.Awaken(ctx, a)
	if err != nil && !answered(err) && ctx.Err() == nil {
		err = b.guest.Awaken(ctx, a) // repeating the call is harmless
	}
	return err
}
