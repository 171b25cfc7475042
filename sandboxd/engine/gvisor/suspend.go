package gvisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Suspend implements [engine.Suspender]. The rename of the checkpoint is the moment at which a
// sandbox is suspended; before it, whatever fails or is killed leaves it running, because
// runsc lets it run on. What it does between the checkpoint and its end never happened: no
// stream is open, and it has no other way to tell.
func (e *Engine) Suspend(ctx context.Context, id sandbox.ID) error {
	release, err := e.locks.take(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	r, err := e.layout.find(id)
	if err != nil {
		return err
	}
	if !e.layout.suspended(id) {
		if _, alive := e.layout.processOfBox(id); !alive {
			return noSandbox(id)
		}
		if err := e.save(ctx, id, r, e.layout.checkpoint(id), e.compress); err != nil {
			return fmt.Errorf("suspend %s: %w", id, err)
		}
	}
	endCtx, cancel := cleanup(ctx)
	defer cancel()
	return e.end(endCtx, id)
}

// save writes a running sandbox's memory to the folder to, which gets its name when it is whole
// and on disk. The sandbox runs on.
func (e *Engine) save(ctx context.Context, id sandbox.ID, r record, to string, compress bool) (err error) {
	making := e.layout.makingCheckpoint(id)
	if err := os.RemoveAll(making); err != nil {
		return err
	}
	if err := os.Mkdir(making, 0o700); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(making))
		}
	}()
	e.streams.close(id) // a pipe of the host's can't be in a checkpoint
	args := []string{"checkpoint", "--leave-running", "--exclude-committed-zero-pages", "--image-path=" + making}
	if compress {
		args = append(args, "--compression=flate-best-speed")
	}
	if err := e.call(ctx, r.Build, append(args, string(id))...); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return sandbox.Errorf(sandbox.Unavailable, "the sandbox's memory could not be saved, and it runs on: see that the disk of the machine is not full").WithCause(err)
	}
	config, err := os.ReadFile(filepath.Join(e.layout.box(id), "config.json"))
	if err != nil {
		return err
	}
	if err := seal(making, manifestOf(r, config)); err != nil {
		return fmt.Errorf("seal the checkpoint: %w", err)
	}
	box := e.layout.box(id)
	if err := errors.Join(syncFile(e.layout.record(id)), syncFile(filepath.Join(box, "config.json")), syncDir(box), syncDir(e.layout.sandboxes())); err != nil {
		return fmt.Errorf("sync the sandbox: %w", err)
	}
	if err := os.Rename(making, to); err != nil {
		return err
	}
	return syncDir(filepath.Dir(to))
}

// Resume implements [engine.Suspender]. The checkpoint goes when the guest has answered; until
// then, whatever fails or is killed leaves the sandbox suspended.
func (e *Engine) Resume(ctx context.Context, id sandbox.ID) error {
	release, err := e.locks.take(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	r, err := e.layout.find(id)
	if err != nil {
		return err
	}
	if !e.layout.suspended(id) {
		if _, alive := e.layout.processOfBox(id); !alive {
			return noSandbox(id)
		}
		return nil
	}
	if err := e.end(ctx, id); err != nil { // what a suspend or resume left that was cut short
		return err
	}
	err = e.restore(ctx, id, r)
	if err != nil {
		endCtx, cancel := cleanup(ctx)
		defer cancel()
		return errors.Join(fmt.Errorf("resume %s: %w", id, err), e.end(endCtx, id))
	}
	return nil
}

// restore starts a sandbox from its checkpoint, which is then gone.
func (e *Engine) restore(ctx context.Context, id sandbox.ID, r record) error {
	dir := e.layout.checkpoint(id)
	config, err := os.ReadFile(filepath.Join(e.layout.box(id), "config.json"))
	if err != nil {
		return err
	}
	if err := e.restorable(r); err != nil {
		return err
	}
	m, err := readManifest(dir)
	if err != nil {
		return err
	}
	if err := m.fits(manifestOf(r, config)); err != nil {
		return err
	}
	// The files are looked through while runsc reads them: what is damaged reaches a
	// sandbox, and nobody reaches that one.
	damage := make(chan error, 1)
	go func() { damage <- m.whole(dir) }()
	startErr := e.startBox(ctx, id, r.Build, "restore", "--image-path="+dir)
	if err := <-damage; err != nil {
		return err
	}
	if startErr != nil {
		return startErr
	}
	trash := filepath.Join(e.layout.sandboxes(), ".trash-checkpoint-"+string(id))
	if err := errors.Join(os.RemoveAll(trash), os.Rename(dir, trash), syncDir(e.layout.box(id))); err != nil {
		return err
	}
	return os.RemoveAll(trash)
}

// restorable says what a checkpoint needs and is gone.
func (e *Engine) restorable(r record) error {
	for what, path := range map[string]string{
		"the gVisor build that it was suspended with": e.layout.runsc(r.Build),
		"its image":         e.images.root(r.Image),
		"its guest program": e.layout.guest(r.Guest),
	} {
		if _, err := os.Stat(path); err != nil {
			return lost("%s is gone", what).WithCause(err)
		}
	}
	if build, err := buildOf(e.layout.runsc(r.Build)); err != nil || build != r.Build {
		return lost("the gVisor build that it was suspended with was changed").WithCause(err)
	}
	return nil
}

// lost is the error of a checkpoint that can never be resumed.
func lost(format string, args ...any) *sandbox.Error {
	return sandbox.Errorf(sandbox.Expired, "the sandbox can't be resumed: "+format, args...)
}
