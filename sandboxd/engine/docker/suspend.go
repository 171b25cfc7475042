package docker

import (
	"context"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/system"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// An engine suspends sandboxes in one of two ways. [suspensionOf] chooses the way, and [engine.Info] reports it.
//
// [engine.ToDisk], with gVisor on an engine with experimental features: the engine writes a checkpoint while the
// sandbox continues to run. Then the container is renamed, and then it is killed. The name marks the sandbox as
// suspended, because an engine can't change a container's labels. The new name contains the name of the one
// checkpoint that is complete, and the checksum of its files. So the state is well defined whenever the daemon or the
// engine is killed. Before the rename, the sandbox runs, and any checkpoint is ignored. After the rename, the sandbox
// is suspended, even if its container still runs: no stream is open, so no client has seen the effects of code that
// ran after the checkpoint. Resume starts the container from the checkpoint, and renames it back when its guest has
// answered. The engine could end the container itself when it has written the memory, but it would do so before the
// checkpoint is stored under its name, and a crash between the two would lose the sandbox.
//
// [engine.Paused], otherwise: the engine freezes the container, and reports its state as paused. The sandbox keeps
// its memory, and is lost when the machine stops.

// disconnectTimeout bounds the wait for the end of dials in progress, and the wait for the end of processes that the
// engine's exec has started.
const disconnectTimeout = 10 * time.Second

var (
	_ engine.Suspender = (*Engine)(nil)
	_ engine.Forker    = (*Engine)(nil)
)

// suspensionOf returns how sandboxes are suspended on an engine. Podman reports an experimental build, but its Docker
// API has no checkpoints. If containerd's copies of saved memory can't be removed, sandboxes are paused, because each
// resume would leave a copy.
func suspensionOf(sys system.Info, versions map[string]string, facts engineFacts) engine.Suspension {
	_, podman := versions["Podman Engine"]
	if facts.gvisor() && sys.ExperimentalBuild && !podman && facts.CopiesStay == "" {
		return engine.ToDisk
	}
	return engine.Paused
}

var errDialInProgress = sandbox.Errorf(sandbox.Busy, "a connection to the sandbox is being opened, and the engine does not answer: try again")

// acquireExclusive waits until no other call changes or dials the sandbox, and then excludes such calls until done is
// called. It returns an error of kind busy if a dial is still in progress after disconnectTimeout.
func (e *Engine) acquireExclusive(ctx context.Context, id sandbox.ID) (done func(), err error) {
	releaseChange, err := e.changes.Acquire(ctx, id)
	if err != nil {
		return nil, err
	}
	waitCtx, cancel := context.WithTimeoutCause(ctx, disconnectTimeout, errDialInProgress)
	defer cancel()
	releaseDials, err := e.dials.Acquire(waitCtx, id)
	if err != nil {
		releaseChange()
		if ctx.Err() == nil {
			err = context.Cause(waitCtx)
		}
		return nil, err
	}
	return func() { releaseDials(); releaseChange() }, nil
}

// Suspend implements [engine.Suspender].
func (e *Engine) Suspend(ctx context.Context, id sandbox.ID) error {
	done, err := e.acquireExclusive(ctx, id)
	if err != nil {
		return err
	}
	defer done()
	found, err := e.findSettled(ctx, id)
	if err != nil {
		return err
	}
	switch {
	case checkpointInName(found.Name).name != "":
		e.endSuspended(ctx, found.ID)
		return nil
	case found.State.Paused:
		return nil
	case !found.State.Running:
		return engine.ErrNotFound(id)
	}
	e.streams.Close(found.ID)
	if e.info.Suspend == engine.ToDisk {
		return e.suspendToDisk(ctx, id, found.ID)
	}
	if err := e.pause(ctx, found.ID); err != nil {
		return sandbox.Errorf(sandbox.Unavailable, "the engine could not pause the sandbox, which continues to run").WithCause(err)
	}
	e.resumedIDs.Delete(id)
	return nil
}

// Resume implements [engine.Suspender].
func (e *Engine) Resume(ctx context.Context, id sandbox.ID) error {
	done, err := e.acquireExclusive(ctx, id)
	if err != nil {
		return err
	}
	defer done()
	found, err := e.find(ctx, id)
	if err != nil {
		return err
	}
	s := checkpointInName(found.Name)
	switch {
	case s.name != "":
		if err = e.end(ctx, found.ID); err == nil { // the container still runs if a suspend or resume was interrupted
			err = e.resumeFromDisk(ctx, id, found.ID, s)
		}
	case !found.State.Running: // Docker also reports a paused container as running
		err = engine.ErrNotFound(id)
	case e.info.Suspend == engine.ToDisk && !found.State.Paused:
		err = e.unfreeze(ctx, found.ID)
	default: // unpause even if the engine reports the container as not paused, because that report may be out of date
		err = e.unpause(ctx, found.ID)
	}
	if err == nil {
		e.resumedIDs.Store(id, true)
	}
	return wrap("resume "+string(id), err)
}

// endSuspended ends the container of a sandbox that is marked as suspended. It returns no error, because the sandbox is
// suspended even if its container still runs. If the engine can't end the container now, the container uses memory until
// the next Suspend, Resume or Remove, or the next start of the daemon, ends it.
func (e *Engine) endSuspended(ctx context.Context, containerID string) { _ = e.end(ctx, containerID) }

// end kills a container if it runs, and waits until it has ended.
func (e *Engine) end(ctx context.Context, containerID string) error {
	ctx, cancel := engine.Cleanup(ctx)
	defer cancel()
	err := e.api.ContainerKill(ctx, containerID, "KILL")
	if err != nil && !cerrdefs.IsConflict(err) && !cerrdefs.IsNotFound(err) { // a conflict means that the container does not run
		return err
	}
	ended, failed := e.api.ContainerWait(ctx, containerID, container.WaitConditionNotRunning)
	select {
	case <-ended:
		return nil
	case err := <-failed:
		if cerrdefs.IsNotFound(err) {
			return nil
		}
		return err
	}
}
