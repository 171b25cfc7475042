package gvisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Fork implements [engine.Forker]. The streams of a running original are closed: they can be
// dialled again at once.
func (e *Engine) Fork(ctx context.Context, from, to sandbox.ID) error {
	if !sandbox.IsID(string(to)) || from == to {
		return sandbox.Errorf(sandbox.Invalid, "%q is no id for a fork", sandbox.Quote(string(to)))
	}
	for _, id := range []sandbox.ID{min(from, to), max(from, to)} { // in one order, or two could wait for each other
		release, err := e.locks.take(ctx, id)
		if err != nil {
			return err
		}
		defer release()
	}
	r, err := e.layout.find(from)
	if err != nil {
		return err
	}
	var config ociSpec
	if err := readJSON(filepath.Join(e.layout.box(from), "config.json"), &config); err != nil {
		return err
	}
	config.Linux.CgroupsPath = e.cgroups.path(to)
	return e.make(ctx, to, r, config, func() error {
		if err := e.copyMemory(ctx, from, to, r); err != nil {
			return err
		}
		return e.restore(ctx, to, r)
	})
}

// copyMemory gives the sandbox to the checkpoint of from: its own if it is suspended, else a new one.
func (e *Engine) copyMemory(ctx context.Context, from, to sandbox.ID, r record) error {
	dir := e.layout.checkpoint(to)
	if e.layout.suspended(from) {
		if err := linkTree(e.layout.checkpoint(from), dir); err != nil {
			return fmt.Errorf("copy the memory of %s: %w", from, err)
		}
	} else {
		if _, alive := e.layout.processOfBox(from); !alive {
			return noSandbox(from)
		}
		if err := e.save(ctx, from, r, dir, false); err != nil {
			return fmt.Errorf("copy the memory of %s: %w", from, err)
		}
	}
	return e.adopt(from, to, r)
}

// adopt makes a checkpoint of from one of to: only the configuration differs.
func (e *Engine) adopt(from, to sandbox.ID, r record) error {
	old, err := os.ReadFile(filepath.Join(e.layout.box(from), "config.json"))
	if err != nil {
		return err
	}
	config, err := os.ReadFile(filepath.Join(e.layout.box(to), "config.json"))
	if err != nil {
		return err
	}
	m, err := readManifest(e.layout.checkpoint(to))
	if err != nil {
		return err
	}
	if m.Config != manifestOf(r, old).Config {
		return lost("its saved memory belongs to another sandbox")
	}
	m.Config = manifestOf(r, config).Config
	return writeManifest(e.layout.checkpoint(to), m)
}

// linkTree makes a folder of the same files. Nobody writes to them.
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
