package docker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/checkpoint"
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
// checkpoint is stored under its name.
//
// [engine.Paused], otherwise: the engine freezes the container, and reports its state as paused. The sandbox keeps
// its memory, and is lost when the machine stops.

const (
	// checkpointTimeout bounds the engine's work on a checkpoint or a restore, which can't be cancelled.
	checkpointTimeout = 5 * time.Minute
	// disconnectTimeout bounds the wait for the end of dials in progress, and the wait for the end of processes that
	// the engine's exec has started.
	disconnectTimeout = 10 * time.Second
	disconnectPoll    = 5 * time.Millisecond
	// startRetryDelay is the pause before a failed start is retried. Each pause is twice as long as the one before, up
	// to maxStartRetryDelay.
	startRetryDelay    = 50 * time.Millisecond
	maxStartRetryDelay = 2 * time.Second
	// answerTimeout is the time in which a guest answers if it is not frozen.
	answerTimeout = 2 * time.Second
	unpauseTries  = 5
	settlePoll    = 20 * time.Millisecond
	checkpointTag = "-asleep-"
)

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

var errDialInProgress = sandbox.Errorf(sandbox.Busy, "the sandbox is being dialled, and the engine does not answer: try again")

// checkpointRef identifies a checkpoint by its name and the checksum of its files. The checksum is empty if this
// process can't read the files.
type checkpointRef struct{ name, sum string }

// suspendedName returns the name of a container while its sandbox is suspended to disk.
func suspendedName(id sandbox.ID, s checkpointRef) string {
	return nameOf(id) + checkpointTag + s.name + "-" + s.sum
}

// checkpointInName returns the checkpoint that a container's name contains. The checkpoint's name is empty if the
// sandbox is not suspended to disk.
func checkpointInName(container string) (s checkpointRef) {
	_, rest, _ := strings.Cut(container, checkpointTag)
	s.name, s.sum, _ = strings.Cut(rest, "-")
	return s
}

// newCheckpoint returns a name that no other call has used. An engine finishes a checkpoint even if the call that
// requested it was cancelled, and must not write into the files of a later checkpoint.
func newCheckpoint() string { return strings.ToLower(rand.Text()[:12]) }

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
		return e.end(ctx, found.ID)
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
		return sandbox.Errorf(sandbox.Unavailable, "the engine could not pause the sandbox, which runs on").WithCause(err)
	}
	e.resumedIDs.Delete(id)
	return nil
}

// findSettled is like find, for callers that need to know whether the container is paused. Docker records an unpause
// twice: when it handles the call, and again when an event of containerd arrives. So for a moment Docker can report a
// container as paused that was just resumed. If this process has resumed the sandbox, findSettled waits until Docker
// reports the container as not paused, but at most for answerTimeout.
func (e *Engine) findSettled(ctx context.Context, id sandbox.ID) (found container.InspectResponse, err error) {
	for end := time.Now().Add(answerTimeout); ; {
		found, err = e.find(ctx, id)
		if _, ours := e.resumedIDs.Load(id); err != nil || !found.State.Paused || !ours || time.Now().After(end) {
			return found, err
		}
		select {
		case <-time.After(settlePoll):
		case <-ctx.Done():
			return found, ctx.Err()
		}
	}
}

// suspendToDisk suspends a running sandbox to disk. The caller must have called acquireExclusive, and must have closed
// the sandbox's streams.
func (e *Engine) suspendToDisk(ctx context.Context, id sandbox.ID, containerID string) error {
	if err := e.dropCheckpoints(ctx, containerID); err != nil {
		return wrap("suspend "+string(id), err)
	}
	s, err := e.saveCheckpoint(ctx, containerID, containerID)
	if err != nil {
		return wrap("suspend "+string(id), err)
	}
	// The checkpoint is complete, so the rest of the suspend is not cancelled.
	ctx, cancel := engine.Cleanup(ctx)
	defer cancel()
	if err := e.api.ContainerRename(ctx, containerID, suspendedName(id, s)); err != nil {
		return wrap("mark "+string(id)+" as suspended", err)
	}
	return wrap("end "+string(id), e.end(ctx, containerID))
}

// saveCheckpoint saves the memory of the container from as a checkpoint in the folder of the container to. Both may be
// the same container. The container from continues to run.
func (e *Engine) saveCheckpoint(ctx context.Context, from, to string) (s checkpointRef, err error) {
	if err := e.awaitDisconnect(ctx, from); err != nil {
		return s, err
	}
	s.name = newCheckpoint()
	options := checkpoint.CreateOptions{CheckpointID: s.name}
	if from != to {
		options.CheckpointDir = e.checkpointsOf(to)
	}
	// The call does not end with ctx: an engine continues to write the checkpoint even if the call is cancelled.
	saveCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkpointTimeout)
	defer cancel()
	err = e.api.CheckpointCreate(saveCtx, from, options)
	switch {
	case err != nil && isUnreachable(err):
	case err != nil && strings.Contains(err.Error(), "invalid task checkpoint option"):
		// After a restart, Docker 20.10 lacks the data that it needs for a checkpoint of a container that was already
		// running.
		err = sandbox.Errorf(sandbox.Unavailable, "this engine can't save the memory of a sandbox that ran when the engine was restarted, and it runs on: update the engine").WithCause(err)
	case err != nil:
		err = sandbox.Errorf(sandbox.Unavailable, "the sandbox's memory could not be saved, and it runs on: see that the disk of the engine's machine is not full").WithCause(err)
	}
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		s.sum, err = e.sealCheckpoint(to, s.name)
	}
	if err != nil {
		_ = e.removeCopies(from, "")                                                            // if this fails, the next start of the daemon removes the copies
		_ = e.api.CheckpointDelete(saveCtx, to, checkpoint.DeleteOptions{CheckpointID: s.name}) // if this fails, the next suspend removes the checkpoint
	}
	return s, err
}

// awaitDisconnect waits until no process that the engine's exec has started runs in the container. Such a process is
// connected to the engine by pipes, and a checkpoint can't contain pipes. Dial has started some of these processes,
// which end because the caller has closed their streams.
func (e *Engine) awaitDisconnect(ctx context.Context, containerID string) error {
	for deadline := time.Now().Add(disconnectTimeout); ; {
		found, err := e.api.ContainerInspect(ctx, containerID)
		if err != nil {
			return err
		}
		if len(found.ExecIDs) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return sandbox.Errorf(sandbox.Busy, "somebody is connected to the sandbox (docker exec), so its memory can't be saved, and it runs on")
		}
		select {
		case <-time.After(disconnectPoll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
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
	default: // also if the engine reports the container as not paused, because that report may be out of date
		err = e.unpause(ctx, found.ID)
	}
	if err == nil {
		e.resumedIDs.Store(id, true)
	}
	return wrap("resume "+string(id), err)
}

// resumeFromDisk starts a container from its checkpoint, and then removes the checkpoint.
func (e *Engine) resumeFromDisk(ctx context.Context, id sandbox.ID, containerID string, s checkpointRef) error {
	if err := e.startFrom(ctx, containerID, containerID, s); err != nil {
		return err
	}
	ctx, cancel := engine.Cleanup(ctx)
	defer cancel()
	if err := e.api.ContainerRename(ctx, containerID, nameOf(id)); err != nil {
		return err // if the container still has the old name, the sandbox is suspended, and its checkpoint exists
	}
	_ = e.api.CheckpointDelete(ctx, containerID, checkpoint.DeleteOptions{CheckpointID: s.name}) // if this fails, the next suspend removes the checkpoint
	return nil
}

// startFrom starts the container containerID from a checkpoint in the container's own folder. The checkpoint contains
// the memory of the container from, which is the same container or the original of a fork. The checkpoint's files are
// checked for damage while the container starts, and no client can reach the sandbox until the check has succeeded. If
// startFrom fails, the container does not run.
func (e *Engine) startFrom(ctx context.Context, containerID, from string, s checkpointRef) error {
	damage := make(chan error, 1)
	go func() { damage <- e.intact(containerID, s) }()
	startCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkpointTimeout)
	defer cancel()
	err := e.api.ContainerStart(startCtx, containerID, container.StartOptions{CheckpointID: s.name})
	for wait := startRetryDelay; err != nil && ctx.Err() == nil && wait <= maxStartRetryDelay; wait *= 2 {
		// containerd may still have a copy of the checkpoint, which it made when the checkpoint was saved or for an
		// engine that was killed. The engine then reports a failure because the copy exists, or it uses the copy
		// although it is incomplete. New modification times make the engine write another copy.
		e.touchCheckpoint(containerID, s.name)
		time.Sleep(wait)
		err = e.api.ContainerStart(startCtx, containerID, container.StartOptions{CheckpointID: s.name})
	}
	// The restore has succeeded or failed, so the copies are no longer read. If they can't be removed now, the next
	// start of the daemon removes them.
	_ = e.removeCopies(from, s.sum)
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = e.awaitGuest(ctx, containerID)
	}
	damaged := <-damage
	if err == nil && damaged == nil {
		return nil
	}
	cleanupCtx, cancelCleanup := engine.Cleanup(ctx)
	defer cancelCleanup()
	if damaged != nil {
		err = damaged
	} else if exists, listErr := e.hasCheckpoint(cleanupCtx, containerID, s.name); listErr == nil && !exists {
		err = sandbox.Errorf(sandbox.Expired, "it can't be resumed, because the engine has lost its saved memory").WithCause(err)
	}
	return errors.Join(err, e.end(cleanupCtx, containerID))
}

// unfreeze makes sure that a container runs if the engine reports it as running. An engine that was killed while it
// made a checkpoint can leave the container frozen without reporting it as paused.
func (e *Engine) unfreeze(ctx context.Context, containerID string) error {
	if left, err := e.api.CheckpointList(ctx, containerID, checkpoint.ListOptions{}); err != nil || len(left) == 0 {
		return nil // no checkpoint was interrupted, or the engine can't list checkpoints
	}
	answerCtx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if e.awaitGuest(answerCtx, containerID) == nil {
		return e.dropCheckpoints(ctx, containerID)
	}
	_ = e.pause(ctx, containerID) // this may fail, because the container may be paused already
	if err := e.unpause(ctx, containerID); err != nil {
		return err
	}
	return e.dropCheckpoints(ctx, containerID)
}

// pause closes the streams to a container and freezes the container. The calls do not end with ctx: an engine would
// pause the container even if the call were cancelled.
func (e *Engine) pause(ctx context.Context, containerID string) error {
	ctx, cancel := engine.Cleanup(ctx)
	defer cancel()
	e.streams.Close(containerID)
	// The engine may still be starting an exec for a dial that was cancelled. In a frozen container that exec would
	// hang, and every inspect of the container would hang too (Docker 20.10). The engine answers this inspect once it
	// is starting no exec.
	if _, err := e.api.ContainerInspect(ctx, containerID); err != nil {
		return err
	}
	return e.api.ContainerPause(ctx, containerID)
}

// unpause resumes a paused container. It succeeds if the guest answers, even if the engine returned an error, because
// an engine whose state is out of date reports that the container is not paused. If unpause fails, it pauses the
// container again.
func (e *Engine) unpause(ctx context.Context, containerID string) error {
	var errs error
	for range unpauseTries {
		unpauseCtx, cancel := engine.Cleanup(ctx)
		err := e.api.ContainerUnpause(unpauseCtx, containerID)
		cancel()
		answerCtx, cancel := context.WithTimeout(ctx, answerTimeout)
		answers := e.awaitGuest(answerCtx, containerID)
		cancel()
		if answers == nil {
			return nil
		}
		errs = errors.Join(err, answers)
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs, e.pause(ctx, containerID))
}

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

func (e *Engine) hasCheckpoint(ctx context.Context, containerID, name string) (bool, error) {
	list, err := e.api.CheckpointList(ctx, containerID, checkpoint.ListOptions{})
	if err != nil {
		return false, err
	}
	for _, c := range list {
		if c.Name == name {
			return true, nil
		}
	}
	return false, nil
}

// dropCheckpoints removes all checkpoints of a running container: incomplete ones, and the one that the container was
// started from.
func (e *Engine) dropCheckpoints(ctx context.Context, containerID string) error {
	list, err := e.api.CheckpointList(ctx, containerID, checkpoint.ListOptions{})
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range list {
		errs = append(errs, e.api.CheckpointDelete(ctx, containerID, checkpoint.DeleteOptions{CheckpointID: c.Name}))
	}
	return errors.Join(errs...)
}

// repairAfterCrash repairs the state that a killed daemon or engine has left. It ends containers that still run
// although their sandbox is suspended, and unpauses containers that are frozen although the engine reports them as
// running. For all sandboxes, it removes the copies of memory that containerd has left. A container that it can't repair
// causes a warning, and is repaired when its sandbox is resumed or removed.
func (e *Engine) repairAfterCrash(ctx context.Context) error {
	all, err := e.listContainers(ctx)
	if err != nil {
		return err
	}
	for _, s := range all {
		// A killed daemon may have left a start of the container in progress. The engine answers an inspect only after
		// that start has ended, so then the copies are no longer read.
		_, err := e.api.ContainerInspect(ctx, s.container)
		if err == nil {
			err = e.removeCopies(s.container, checkpointInName(s.name).sum)
		}
		if err != nil && !cerrdefs.IsNotFound(err) {
			e.info.Warnings = append(e.info.Warnings, fmt.Sprintf("sandbox %s: copies of its memory may be left in %s: %v", s.id, strings.Join(e.facts.CopyPlaces, ", "), err))
		}
		if s.state != container.StateRunning {
			continue
		}
		err = nil
		if checkpointInName(s.name).name != "" {
			err = e.end(ctx, s.container)
		} else if e.info.Suspend == engine.ToDisk {
			err = e.unfreeze(ctx, s.container)
		}
		if err != nil {
			e.info.Warnings = append(e.info.Warnings, fmt.Sprintf("sandbox %s: a suspend was cut short, and could not be put right: see that the engine works", s.id))
		}
	}
	return nil
}
