package gvisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/durable"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// A sandbox that runs may have a checkpoint of a while ago: the last [Engine.Checkpoint], or the one that it was
// resumed from. It is in kept. If its processes die, it is suspended again, as of then: [Engine.fallBack] makes
// kept its checkpoint, and puts endedName into it.

// endedName is a file in a checkpoint whose sandbox ran on after it: it says how that ended.
const endedName = "ended"

// Checkpoint implements [engine.Checkpointer].
func (e *Engine) Checkpoint(ctx context.Context, id sandbox.ID) (err error) {
	defer func() { err = e.images.blameDisk(err) }()
	release, err := e.locks.take(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	r, err := e.layout.find(id)
	if err != nil {
		return err
	}
	if e.layout.suspended(id) {
		return nil // its state is on disk
	}
	if _, alive := e.layout.processOfBox(id); !alive {
		if exists(e.layout.kept(id)) {
			return asleep()
		}
		return noSandbox(id)
	}
	if err := e.save(ctx, id, r, e.layout.kept(id)); err != nil {
		return fmt.Errorf("checkpoint %s: %w", id, err)
	}
	return nil
}

// Discard implements [engine.Checkpointer]. What is kept of a sandbox that has died meanwhile is all that there
// is of it, and stays until it is removed.
func (e *Engine) Discard(ctx context.Context, id sandbox.ID) error {
	if !sandbox.IsID(string(id)) {
		return nil
	}
	release, err := e.locks.take(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	if _, alive := e.layout.processOfBox(id); !alive || e.layout.suspended(id) || !exists(e.layout.kept(id)) {
		return nil
	}
	return errors.Join(e.drop(e.layout.kept(id)), durable.SyncDir(e.layout.box(id)))
}

// fallBack makes a sandbox suspended whose processes have died, if there is a checkpoint to fall back to. For who has
// its turn.
func (e *Engine) fallBack(ctx context.Context, id sandbox.ID) error {
	kept := e.layout.kept(id)
	if e.layout.suspended(id) || !exists(kept) {
		return nil
	}
	if _, alive := e.layout.processOfBox(id); alive {
		return nil
	}
	path := filepath.Join(kept, endedName)
	if err := durable.WriteFile(path, []byte(e.ending(id)+"\n"), 0o600); err != nil {
		return fmt.Errorf("fall back to the checkpoint of %s: %w", id, err)
	}
	if err := e.end(ctx, id); err != nil {
		return err
	}
	return e.put(kept, e.layout.checkpoint(id))
}

// look says what a sandbox is, and asks nobody. It needs no turn: what changes meanwhile is seen as it was or as it
// is. A sandbox that has just been suspended or resumed can look dead, and is looked at again.
func (e *Engine) look(id sandbox.ID) (c engine.Container) {
	for range 3 {
		if c = e.glance(id); c.Running || c.Suspended && c.AsOf.IsZero() {
			break
		}
	}
	return c
}

func (e *Engine) glance(id sandbox.ID) engine.Container {
	c := engine.Container{ID: id}
	checkpoint, kept := e.layout.checkpoint(id), e.layout.kept(id)
	c.StateBytes = bytesIn(checkpoint) + bytesIn(kept)
	damage := e.layout.damage(id)
	switch _, alive := e.layout.processOfBox(id); {
	case damage != "":
		c.Detail = damage
	case e.layout.suspended(id):
		c.Suspended, c.Detail = true, "is suspended"
		if how, err := os.ReadFile(filepath.Join(checkpoint, endedName)); err == nil {
			c.AsOf, c.Detail = savedAt(checkpoint), strings.TrimSpace(string(how))
		}
	case alive:
		c.Running = true
	case exists(kept):
		c.Suspended, c.AsOf, c.Detail = true, savedAt(kept), e.ending(id)
	default:
		c.Detail = e.ending(id)
	}
	return c
}

// savedAt is when a checkpoint was made. One that is damaged can't be resumed, and that is said then.
func savedAt(dir string) time.Time {
	if m, err := readManifest(dir); err == nil && !m.Saved.IsZero() {
		return m.Saved
	}
	if info, err := os.Stat(filepath.Join(dir, manifestName)); err == nil {
		return info.ModTime()
	}
	return time.Unix(0, 0)
}

// bytesIn is what the files of a folder take on disk; none if it is not there.
func bytesIn(dir string) (n int64) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil {
			n += allocated(info)
		}
	}
	return n
}

// asleep is the answer to who needs a sandbox awake.
func asleep() *sandbox.Error {
	return sandbox.Errorf(sandbox.Busy, "the sandbox is suspended, and was not resumed: try again")
}
