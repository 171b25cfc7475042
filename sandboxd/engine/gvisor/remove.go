package gvisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Remove implements [engine.Engine].
func (e *Engine) Remove(ctx context.Context, id sandbox.ID) error {
	if !sandbox.IsID(string(id)) {
		return nil
	}
	e.packer.Abandon(id)
	release, err := e.locks.Acquire(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	return e.remove(ctx, id)
}

// remove is like Remove, but the caller must hold the sandbox's lock. It removes the folder last: until everything else
// is gone, the sandbox is listed and can be removed again.
func (e *Engine) remove(ctx context.Context, id sandbox.ID) error {
	sandboxDir := e.layout.Sandbox(id)
	if _, err := os.Stat(sandboxDir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := e.end(ctx, id); err != nil {
		return err
	}
	if err := e.layout.Discard(sandboxDir); err != nil {
		return fmt.Errorf("remove %s: %w", id, err)
	}
	return nil
}

// end kills all processes of a sandbox, closes its streams, and removes its cgroup and the files that runsc keeps about
// it. It does not call runsc for this, because runsc identifies a process only by its pid. If the machine was rebooted
// or the sandbox died after runsc recorded the pid, another process may have that pid now. The caller must hold the
// sandbox's lock.
func (e *Engine) end(ctx context.Context, id sandbox.ID) error {
	if err := e.endInstance(ctx, e.layout.InstanceOf(id), e.layout.Process(id)); err != nil {
		return err
	}
	e.streams.Close(string(id))
	return removeFiles(e.layout.Process(id), e.layout.Pooled(id))
}

// endInstance kills all processes of an instance, and removes its cgroup and the files that runsc keeps about it. If
// the instance is a pooled sandbox, endInstance removes the pooled sandbox's folder, too. The parameter record is the
// path of the file with the instance's process, or empty.
func (e *Engine) endInstance(ctx context.Context, in folder.Instance, record string) error {
	if err := e.kill(ctx, in, record); err != nil {
		return err
	}
	if err := e.cgroups.Remove(ctx, in.Name); err != nil {
		return err
	}
	s := in.Name
	err := removeFiles(
		filepath.Join(e.layout.RunscRoot(), s+"_sandbox:"+s+".state"),
		filepath.Join(e.layout.RunscRoot(), s+"_sandbox:"+s+".lock"),
		filepath.Join(e.layout.RunscRoot(), "runsc-"+s+".sock"),
		// runsc creates the socket in one of these folders if the path of the home is too long for a socket.
		"/var/run/runsc-"+s+".sock",
		"/run/runsc-"+s+".sock",
		"/tmp/runsc-"+s+".sock",
		in.PIDFile())
	if err == nil && filepath.Dir(in.Bundle) == e.layout.Pool() {
		err = os.RemoveAll(in.Bundle)
	}
	return err
}

// removeFiles removes the files that exist.
func removeFiles(paths ...string) error {
	for _, path := range paths {
		// Check first: in a service with a read-only /run, removing a missing file fails with another error than
		// ErrNotExist.
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("end a sandbox: %w", err)
		}
	}
	return nil
}
