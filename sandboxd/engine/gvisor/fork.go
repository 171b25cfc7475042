package gvisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Fork implements [engine.Forker]. If the original is running, Fork closes the streams to it. New streams can be
// dialled after Fork has returned.
func (e *Engine) Fork(ctx context.Context, from, to sandbox.ID) (err error) {
	defer func() { err = folder.ExplainFullDisk(err, e.images.Dir) }()
	if !sandbox.IsID(string(to)) || from == to {
		return sandbox.Errorf(sandbox.Invalid, "%q is no id for a fork", sandbox.Quote(string(to)))
	}
	e.packer.abandon(from)
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
		if err := linkTree(e.layout.Checkpoint(from), dir); err != nil {
			return fmt.Errorf("copy the memory of %s: %w", from, err)
		}
		if err := e.adaptManifest(from, to, r); err != nil {
			return err
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

// adaptManifest changes the manifest of the fork's checkpoint, which was copied from the original, so that it fits the
// fork. Only the checksum of the configuration differs.
func (e *Engine) adaptManifest(from, to sandbox.ID, r folder.Record) error {
	old, err := os.ReadFile(e.layout.Config(from))
	if err != nil {
		return err
	}
	config, err := os.ReadFile(e.layout.Config(to))
	if err != nil {
		return err
	}
	m, err := readManifest(e.layout.Checkpoint(to))
	if err != nil {
		return err
	}
	if m.Config != manifestOf(r, old).Config {
		return folder.Lost("its saved memory belongs to another sandbox")
	}
	m.Config = manifestOf(r, config).Config
	return writeManifest(e.layout.Checkpoint(to), m)
}

// linkTree creates a folder at the path to, with hard links to the files in the folder from. The files must not be written
// to afterwards.
func linkTree(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		errs = append(errs, os.Link(filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name())))
	}
	return errors.Join(errs...)
}
