package gvisor

import (
	"context"
	"fmt"
	"os"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/checkpoint"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Fork implements [engine.Forker]. If the original is running, Fork closes the streams to it. New streams can be
// dialled after Fork has returned.
func (e *Engine) Fork(ctx context.Context, from, to sandbox.ID) (err error) {
	defer func() { err = folder.ExplainFullDisk(err, e.images.Dir) }()
	if !sandbox.IsID(string(to)) || from == to {
		return sandbox.Errorf(sandbox.Invalid, "%q is not a valid id for a fork", sandbox.Quote(string(to)))
	}
	e.packer.Abandon(from)
	// Always acquire the locks of the two sandboxes in the order of their ids, so that concurrent forks can't
	// deadlock.
	for _, id := range []sandbox.ID{min(from, to), max(from, to)} {
		release, err := e.locks.Acquire(ctx, id)
		if err != nil {
			return err
		}
		defer release()
	}
	r, err := e.layout.Find(from)
	if err != nil {
		return err
	}
	if err := e.useFallback(ctx, from); err != nil {
		return err
	}
	config, err := e.config(from)
	if err != nil {
		return err
	}
	config.Linux.CgroupsPath = e.cgroups.Path(string(to))
	return e.make(ctx, to, r, config, func() error { return e.startFork(ctx, from, to, r) })
}

// startFork starts the fork, whose id is to, with the memory of the original, whose id is from. If the original is
// suspended, startFork uses the original's checkpoint. Otherwise it writes a temporary checkpoint. It neither syncs the
// temporary checkpoint nor computes checksums for it, because the checkpoint is removed before Fork returns.
func (e *Engine) startFork(ctx context.Context, from, to sandbox.ID, r folder.Record) error {
	dir := e.layout.Checkpoint(to)
	if e.layout.Suspended(from) {
		if err := e.copyCheckpoint(from, to, r); err != nil {
			return fmt.Errorf("copy the memory of %s: %w", from, err)
		}
		if err := e.restore(ctx, to, r); err != nil {
			return err
		}
		return e.drop(dir)
	}
	if _, alive := e.processOfSandbox(from); !alive {
		return engine.ErrNotFound(from)
	}
	making := e.layout.MakingCheckpoint(to)
	if err := e.writeCheckpoint(ctx, from, r.Build, making); err != nil {
		return fmt.Errorf("copy the memory of %s: %w", from, err)
	}
	if err := e.startFromCheckpoint(ctx, to, r.Build, making); err != nil {
		return err
	}
	return e.drop(making)
}

// copyCheckpoint copies the checkpoint of the original to the fork.
func (e *Engine) copyCheckpoint(from, to sandbox.ID, r folder.Record) error {
	old, err := os.ReadFile(e.layout.Config(from))
	if err != nil {
		return err
	}
	config, err := os.ReadFile(e.layout.Config(to))
	if err != nil {
		return err
	}
	return checkpoint.Copy(e.layout.Checkpoint(from), e.layout.Checkpoint(to), checkpoint.New(r, old), checkpoint.New(r, config))
}
