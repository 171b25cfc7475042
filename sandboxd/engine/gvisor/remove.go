package gvisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Remove implements [engine.Engine].
func (e *Engine) Remove(ctx context.Context, id sandbox.ID) error {
	if !sandbox.IsID(string(id)) {
		return nil
	}
	e.packer.abandon(id)
	release, err := e.locks.take(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	return e.remove(ctx, id)
}

// remove is Remove for who has the sandbox's turn. The folder goes last: as long as
// anything is left, the sandbox is listed, and can be removed again.
func (e *Engine) remove(ctx context.Context, id sandbox.ID) error {
	box := e.layout.box(id)
	if _, err := os.Stat(box); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := e.end(ctx, id); err != nil {
		return err
	}
	if err := e.layout.discard(box); err != nil {
		return fmt.Errorf("remove %s: %w", id, err)
	}
	return nil
}

// end ends everything that runs for a sandbox, and removes its cgroup and what runsc knows
// of it. It does not ask runsc, which goes by pids: a pid that it wrote down before a reboot,
// or before the sandbox died, may be anybody's by now.
func (e *Engine) end(ctx context.Context, id sandbox.ID) error {
	if err := e.endInstance(ctx, e.layout.instanceOf(id), e.layout.process(id)); err != nil {
		return err
	}
	e.streams.Close(id)
	return removeFiles(e.layout.process(id), e.layout.spareOf(id))
}

// endInstance ends everything that runs of an instance, by its record if it has one, and removes its cgroup, what runsc knows of it, and
// the folder of one that was a spare.
func (e *Engine) endInstance(ctx context.Context, in instance, record string) error {
	if err := e.kill(ctx, in, record); err != nil {
		return err
	}
	if err := e.cgroups.remove(ctx, in.name); err != nil {
		return err
	}
	s := in.name
	err := removeFiles(
		filepath.Join(e.layout.runscRoot(), s+"_sandbox:"+s+".state"),
		filepath.Join(e.layout.runscRoot(), s+"_sandbox:"+s+".lock"),
		filepath.Join(e.layout.runscRoot(), "runsc-"+s+".sock"),
		// Where it goes when the path of the home is too long for a socket.
		"/var/run/runsc-"+s+".sock",
		"/run/runsc-"+s+".sock",
		"/tmp/runsc-"+s+".sock",
		in.pidFile())
	if err == nil && filepath.Dir(in.bundle) == e.layout.spares() {
		err = os.RemoveAll(in.bundle)
	}
	return err
}

// removeFiles removes those that are there.
func removeFiles(paths ...string) error {
	for _, path := range paths {
		// Looked for first: where a service's /run is read-only, removing what is not there is an error.
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("end a sandbox: %w", err)
		}
	}
	return nil
}
