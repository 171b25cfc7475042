package gvisor

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/dormouse-sandbox/dormouse/sandboxd/durable"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/checkpoint"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/runsc"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/stdio"
)

// Suspend implements [engine.Suspender]. The sandbox counts as suspended from the moment when its checkpoint is renamed
// to its final name. If a step before that fails, or the daemon is killed, the sandbox keeps running, because runsc
// leaves the sandbox running after a checkpoint. Work that the sandbox does after the checkpoint and before its
// processes end is discarded. No client can have seen the results of this work: all streams are closed by then, and the
// sandbox has no other connection to the outside.
func (e *Engine) Suspend(ctx context.Context, id sandbox.ID) (err error) {
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
	if err := e.useFallback(ctx, id); err != nil {
		return err
	}
	if !e.layout.Suspended(id) {
		if _, alive := e.processOfSandbox(id); !alive {
			return engine.ErrNotFound(id)
		}
		if err := e.saveCheckpoint(ctx, id, r, e.layout.Checkpoint(id)); err != nil {
			return fmt.Errorf("suspend %s: %w", id, err)
		}
	}
	endCtx, cancel := engine.Cleanup(ctx)
	defer cancel()
	return errors.Join(e.end(endCtx, id), e.drop(e.layout.Fallback(id)))
}

// saveCheckpoint writes a checkpoint of a running sandbox to a folder. The parameter to is the path of the folder.
// saveCheckpoint writes and syncs the checkpoint under another name, and then moves it to the path in one step. An
// older folder at that path is replaced. The sandbox keeps running. The caller must hold the sandbox's lock.
func (e *Engine) saveCheckpoint(ctx context.Context, id sandbox.ID, r folder.Record, to string) (err error) {
	if _, err := e.config(id); err != nil { // a checkpoint with a damaged configuration can't be resumed
		return err
	}
	config, err := os.ReadFile(e.layout.Config(id))
	if err != nil {
		return err
	}
	making := e.layout.MakingCheckpoint(id)
	write := func() error { return e.writeCheckpoint(ctx, id, r.Build, making) }
	if err := checkpoint.Save(making, checkpoint.New(r, config), write); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(making))
		}
	}()
	sandboxDir := e.layout.Sandbox(id)
	if err := errors.Join(durable.SyncFile(e.layout.Record(id)), durable.SyncFile(e.layout.Config(id)), durable.SyncDir(sandboxDir), durable.SyncDir(e.layout.Sandboxes())); err != nil {
		return fmt.Errorf("sync the sandbox: %w", err)
	}
	return e.replaceDir(making, to)
}

// replaceDir moves a new folder to its final path. The parameter making is the folder, and to is the path. It replaces
// an older folder at that path in one step, and then removes the older folder.
func (e *Engine) replaceDir(making, to string) error {
	if err := e.layout.MoveOrExchange(making, to); err != nil {
		return err
	}
	return e.drop(making)
}

// drop removes a folder, if it exists. When drop returns nil, there is no folder at the path dir. The files are removed in
// the background, because removing a large file takes time (0.2 s for 130 MB on ext4 with discard), and suspend, resume
// and fork should not wait for it.
func (e *Engine) drop(dir string) error {
	trash, err := e.layout.Trash(dir)
	if err == nil && trash != "" {
		e.background.Go(func() { _ = os.RemoveAll(trash) }) // if this fails, the next start of the daemon removes the folder
	}
	return err
}

// writeCheckpoint creates the folder dir and calls runsc to write a checkpoint of a running sandbox to it. It closes
// the sandbox's streams first. The sandbox keeps running. If runsc fails, writeCheckpoint removes the folder.
func (e *Engine) writeCheckpoint(ctx context.Context, id sandbox.ID, build, dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return checkpoint.NotSaved(err)
	}
	e.streams.Close(string(id)) // gVisor can't save an open pipe to the host in a checkpoint
	err := e.runsc.Call(ctx, build, "checkpoint", "--leave-running", "--exclude-committed-zero-pages", "--image-path="+dir, e.layout.InstanceOf(id).Name)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	} else {
		err = checkpoint.NotSaved(err)
	}
	return errors.Join(err, os.RemoveAll(dir))
}

// Resume implements [engine.Suspender]. When the guest of the resumed sandbox has answered, the sandbox's checkpoint
// becomes its fallback checkpoint. If a step fails, including this last one, or the daemon is killed before the last
// step, the sandbox stays suspended.
func (e *Engine) Resume(ctx context.Context, id sandbox.ID) (err error) {
	defer func() { err = folder.ExplainFullDisk(err, e.images.Dir) }()
	e.packer.Abandon(id)
	release, err := e.locks.Acquire(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	r, err := e.layout.Find(id)
	if err != nil {
		return err
	}
	if err := e.useFallback(ctx, id); err != nil {
		return err
	}
	if !e.layout.Suspended(id) {
		if _, alive := e.processOfSandbox(id); !alive {
			return engine.ErrNotFound(id)
		}
		return nil
	}
	if err := e.end(ctx, id); err != nil { // an interrupted suspend or resume may have left processes
		return err
	}
	err = e.restore(ctx, id, r)
	if err == nil {
		err = errors.Join(e.drop(e.layout.Fallback(id)), e.replaceDir(e.layout.Checkpoint(id), e.layout.Fallback(id)))
	}
	if err != nil {
		endCtx, cancel := engine.Cleanup(ctx)
		defer cancel()
		return errors.Join(fmt.Errorf("resume %s: %w", id, err), e.end(endCtx, id))
	}
	return nil
}

// restore starts a sandbox from its checkpoint. It fails if the checkpoint is damaged or does not fit this machine.
// The caller must hold the sandbox's lock.
func (e *Engine) restore(ctx context.Context, id sandbox.ID, r folder.Record) error {
	dir := e.layout.Checkpoint(id)
	if _, err := e.config(id); err != nil {
		return err
	}
	config, err := os.ReadFile(e.layout.Config(id))
	if err != nil {
		return err
	}
	if err := e.checkRestorable(r); err != nil {
		return err
	}
	e.images.MarkUsed(r.Image)
	m, err := checkpoint.Read(dir)
	if err != nil {
		return err
	}
	if err := m.Fits(checkpoint.New(r, config)); err != nil {
		return err
	}
	if m.Packed() {
		open := e.layout.OpenCheckpoint(id)
		defer os.RemoveAll(open) // if this fails, the folder is removed at the next start of the daemon or with the sandbox
		if err := m.Unpack(ctx, dir, open); err != nil {
			return err
		}
		return e.startFromCheckpoint(ctx, id, r.Build, open)
	}
	return e.restoreAndVerify(ctx, id, r.Build, dir, func() error { return m.Verify(dir) })
}

// restoreAndVerify starts a sandbox from the checkpoint files of runsc in the folder dir. At the same time it calls the
// parameter verify, which checks these files. If the files are damaged, runsc may have started a sandbox with damaged
// memory. No client can use this sandbox, because the caller holds the sandbox's lock and ends the sandbox when
// restoreAndVerify returns an error.
func (e *Engine) restoreAndVerify(ctx context.Context, id sandbox.ID, build, dir string, verify func() error) error {
	damage := make(chan error, 1)
	go func() { damage <- verify() }()
	startErr := e.startFromCheckpoint(ctx, id, build, dir)
	if err := <-damage; err != nil {
		return err
	}
	return startErr
}

// startFromCheckpoint starts a sandbox from the checkpoint files of runsc in the folder dir. The sandbox runs before
// runsc has read all of the saved memory: runsc reads the pages that the sandbox is waiting for before the other pages.
// When startFromCheckpoint returns nil, runsc has opened the files, so the caller may rename or remove them.
func (e *Engine) startFromCheckpoint(ctx context.Context, id sandbox.ID, build, dir string) error {
	config, err := e.config(id)
	if err != nil {
		return err
	}
	kind := kindOf(build, config)
	var p process
	var own *stdio.Stream
	if s := e.pool.acquire(kind); s != nil {
		p, own, err = s.process, s.own, e.restoreInto(ctx, id, s, build, dir)
	} else {
		p, own, err = e.launch(ctx, e.layout.Own(id), config, build, "restore", "--detach", "--background", "--image-path="+dir)
	}
	if err == nil {
		err = e.started(ctx, id, build, p, own)
	}
	if err == nil {
		e.pool.want(kind)
	}
	return err
}

// checkRestorable returns an error of kind unavailable if the runsc build, the image or the guest that a checkpoint needs
// is missing, or if the runsc program was changed.
func (e *Engine) checkRestorable(r folder.Record) error {
	for what, path := range map[string]string{
		"the gVisor build that it was suspended with": e.layout.Runsc(r.Build),
		"its image":         e.images.Root(r.Image),
		"its guest program": e.layout.Guest(r.Guest),
	} {
		if _, err := os.Stat(path); err != nil {
			return sandbox.Errorf(sandbox.Unavailable, "%s is no longer on this machine; put it back to resume the sandbox", what).WithCause(err)
		}
	}
	if build, err := runsc.BuildOf(e.layout.Runsc(r.Build)); err != nil || build != r.Build {
		return sandbox.Errorf(sandbox.Unavailable, "the gVisor build that it was suspended with was changed; put it back to resume the sandbox").WithCause(err)
	}
	return nil
}
