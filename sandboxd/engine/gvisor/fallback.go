package gvisor

import (
	"context"
	"errors"
	"fmt"

	"github.com/dormouse-sandbox/dormouse/sandboxd/durable"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/checkpoint"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// A running sandbox may have a fallback checkpoint, in its folder "kept": the latest checkpoint that
// [Engine.Checkpoint] wrote, or the checkpoint that the sandbox was resumed from. If the sandbox's processes die, the
// sandbox becomes suspended in the state of that checkpoint: [Engine.useFallback] writes into the folder how the
// processes ended, and renames the folder to "checkpoint".

// Checkpoint implements [engine.Checkpointer].
func (e *Engine) Checkpoint(ctx context.Context, id sandbox.ID) (err error) {
	defer func() { err = folder.ExplainFullDisk(err, e.images.Dir) }()
	release, err := e.locks.Acquire(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	r, err := e.layout.Find(id)
	if err != nil {
		return err
	}
	if e.layout.Suspended(id) {
		return nil // a suspended sandbox has a complete checkpoint already
	}
	if _, alive := e.processOfSandbox(id); !alive {
		if folder.Exists(e.layout.Fallback(id)) {
			return engine.ErrSuspended()
		}
		return engine.ErrNotFound(id)
	}
	if err := e.saveCheckpoint(ctx, id, r, e.layout.Fallback(id)); err != nil {
		return fmt.Errorf("checkpoint %s: %w", id, err)
	}
	return nil
}

// Discard implements [engine.Checkpointer]. It removes the fallback checkpoint only if the sandbox is running: if the
// sandbox's processes have died, that checkpoint is all that is left of the sandbox.
func (e *Engine) Discard(ctx context.Context, id sandbox.ID) error {
	if !sandbox.IsID(string(id)) {
		return nil
	}
	release, err := e.locks.Acquire(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	if _, alive := e.processOfSandbox(id); !alive || e.layout.Suspended(id) || !folder.Exists(e.layout.Fallback(id)) {
		return nil
	}
	return errors.Join(e.drop(e.layout.Fallback(id)), durable.SyncDir(e.layout.Sandbox(id)))
}

// useFallback turns a sandbox whose processes have died into a suspended sandbox, if it has a fallback checkpoint.
// Otherwise it does nothing. The caller must hold the sandbox's lock.
func (e *Engine) useFallback(ctx context.Context, id sandbox.ID) error {
	fallback := e.layout.Fallback(id)
	if e.layout.Suspended(id) || !folder.Exists(fallback) {
		return nil
	}
	if _, alive := e.processOfSandbox(id); alive {
		return nil
	}
	if err := checkpoint.WriteEnd(fallback, e.describeExit(id)); err != nil {
		return fmt.Errorf("fall back to the checkpoint of %s: %w", id, err)
	}
	if err := e.end(ctx, id); err != nil {
		return err
	}
	return e.replaceDir(fallback, e.layout.Checkpoint(id))
}

// readState returns the state of a sandbox. It reads only files and /proc, and the caller need not hold the sandbox's
// lock: if the state changes at the same time, readState returns the old or the new state. A sandbox that is being
// suspended or resumed can look dead for a moment. If the sandbox looks dead, readState therefore reads the state
// again, up to three times in all.
func (e *Engine) readState(id sandbox.ID) (c engine.Container) {
	for range 3 {
		if c = e.readStateOnce(id); c.Running || c.Suspended && c.AsOf.IsZero() {
			break
		}
	}
	return c
}

func (e *Engine) readStateOnce(id sandbox.ID) engine.Container {
	c := engine.Container{ID: id}
	current, fallback := e.layout.Checkpoint(id), e.layout.Fallback(id)
	c.StateBytes = checkpoint.Size(current) + checkpoint.Size(fallback)
	damage := e.damage(id)
	switch _, alive := e.processOfSandbox(id); {
	case damage != "":
		c.Detail = damage
	case e.layout.Suspended(id):
		c.Suspended, c.Detail = true, "is suspended"
		if how, fell := checkpoint.ReadEnd(current); fell {
			c.AsOf, c.Detail = checkpoint.SavedAt(current), how
		}
	case alive:
		c.Running = true
	case folder.Exists(fallback):
		c.Suspended, c.AsOf, c.Detail = true, checkpoint.SavedAt(fallback), e.describeExit(id)
	default:
		c.Detail = e.describeExit(id)
	}
	return c
}
