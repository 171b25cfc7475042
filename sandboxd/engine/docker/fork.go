package docker

import (
	"context"
	"errors"
	"fmt"
	"maps"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Fork implements [engine.Forker] on engines that suspend sandboxes to disk. It creates a container with the original's
// configuration. The engine writes a checkpoint of the original into the new container's folder, and starts the new
// container from that checkpoint. The original must run while its checkpoint is written. Fork therefore starts the
// container of a suspended original from the original's own checkpoint, and kills this container afterwards.
func (e *Engine) Fork(ctx context.Context, from, to sandbox.ID) error {
	if !sandbox.IsID(string(to)) || from == to {
		return sandbox.Errorf(sandbox.Invalid, "%q can't be the id of a fork: it is invalid, or the id of the original", sandbox.Quote(string(to)))
	}
	if e.info.Suspend != engine.ToDisk {
		return sandbox.Errorf(sandbox.Invalid, "this Docker engine can't fork a live sandbox: use the gvisor engine (--engine gvisor), or Docker with the runtime runsc and experimental features")
	}
	for _, id := range []sandbox.ID{min(from, to), max(from, to)} { // the locks are acquired in a fixed order, so that two forks can't wait for each other
		done, err := e.acquireExclusive(ctx, id)
		if err != nil {
			return err
		}
		defer done()
	}
	found, err := e.find(ctx, from)
	if err != nil {
		return err
	}
	if err := e.checkIDFree(ctx, to); err != nil {
		return err
	}
	s := checkpointInName(found.Name)
	switch {
	case s.name != "":
		err = e.end(ctx, found.ID)
		if err == nil {
			err = e.startFrom(ctx, found.ID, found.ID, s)
		}
	case found.State.Paused:
		err = engine.ErrSuspended()
	case !found.State.Running:
		err = engine.ErrNotFound(from)
	}
	if err != nil {
		return wrap("fork "+string(from), err)
	}
	e.streams.Close(found.ID)
	err = e.forkTo(ctx, found, to)
	if s.name != "" {
		err = errors.Join(err, e.end(ctx, found.ID)) // the original is still suspended, so its container must not continue to run
	}
	return wrap("fork "+string(from), err)
}

// forkTo forks a running container into a new sandbox. The parameter of is the container, and to is the id of the new
// sandbox. If that fails, forkTo removes the new sandbox.
func (e *Engine) forkTo(ctx context.Context, of container.InspectResponse, to sandbox.ID) error {
	config := *of.Config
	config.Labels = maps.Clone(config.Labels)
	config.Labels[labelSandbox] = string(to)
	createCtx, cancel := engine.Cleanup(ctx)
	defer cancel()
	made, err := e.api.ContainerCreate(createCtx, &config, of.HostConfig, nil, nil, nameOf(to))
	if cerrdefs.IsConflict(err) {
		return fmt.Errorf("create %s: %w", to, engine.ErrExists)
	}
	var s checkpointRef
	if err == nil {
		s, err = e.saveCheckpoint(ctx, of.ID, made.ID)
	}
	if err == nil {
		err = e.startFrom(ctx, made.ID, of.ID, s)
	}
	cleanupCtx, cancelCleanup := engine.Cleanup(ctx)
	defer cancelCleanup()
	if err != nil {
		return errors.Join(err, e.remove(cleanupCtx, to))
	}
	_ = e.dropCheckpoints(cleanupCtx, made.ID) // if this fails, the fork's next suspend removes the checkpoints
	return nil
}
