package docker

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"time"

	"github.com/docker/docker/api/types/checkpoint"
	"github.com/docker/docker/api/types/container"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

const (
	// checkpointTag is the part of a container's name that marks its sandbox as suspended to disk. It must not change,
	// because the Docker engine keeps the names of suspended containers when Dormouse is updated.
	checkpointTag = "-asleep-"
	// checkpointTimeout bounds the engine's work on a checkpoint or a restore, which can't be cancelled.
	checkpointTimeout = 5 * time.Minute
	disconnectPoll    = 5 * time.Millisecond
	// startRetryDelay is the delay before a failed start is retried. Each delay is twice as long as the one before. There
	// is no retry with a delay above maxStartRetryDelay.
	startRetryDelay    = 50 * time.Millisecond
	maxStartRetryDelay = 2 * time.Second
)

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
// requested it was cancelled. If a later checkpoint had the same name, the engine would write into the files of the
// later one.
func newCheckpoint() string { return strings.ToLower(rand.Text()[:12]) }

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
	if err := e.rename(ctx, containerID, suspendedName(id, s)); err != nil {
		return wrap("mark "+string(id)+" as suspended", err)
	}
	e.endSuspended(ctx, containerID)
	return nil
}

// rename renames a container. It returns no error if the container has the new name, even if the engine's answer was
// lost.
func (e *Engine) rename(ctx context.Context, containerID, name string) error {
	err := e.api.ContainerRename(ctx, containerID, name)
	if err == nil {
		return nil
	}
	if found, inspectErr := e.api.ContainerInspect(ctx, containerID); inspectErr == nil && strings.TrimPrefix(found.Name, "/") == name {
		return nil
	}
	return err
}

// saveCheckpoint writes a checkpoint of one container, whose id is from, into the folder of another, whose id is to.
// Both may be the same container. The container continues to run.
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
		err = sandbox.Errorf(sandbox.Unavailable, "this engine can't save the memory of a sandbox that was running when the engine was restarted; the sandbox continues to run: update the engine").WithCause(err)
	case err != nil:
		err = sandbox.Errorf(sandbox.Unavailable, "the sandbox's memory could not be saved, and the sandbox continues to run: check that the disk of the engine's machine is not full").WithCause(err)
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
// connected to the engine by pipes, and a checkpoint can't contain pipes. The processes that Dial has started end
// because the caller has closed their streams. If another process still runs after disconnectTimeout, awaitDisconnect
// returns an error of kind busy.
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
			return sandbox.Errorf(sandbox.Busy, "a process that `docker exec` has started runs in the sandbox, so the sandbox's memory can't be saved; the sandbox continues to run: end that process")
		}
		select {
		case <-time.After(disconnectPoll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// resumeFromDisk starts a container from its checkpoint, and then removes the checkpoint.
func (e *Engine) resumeFromDisk(ctx context.Context, id sandbox.ID, containerID string, s checkpointRef) error {
	if err := e.startFrom(ctx, containerID, containerID, s); err != nil {
		return err
	}
	ctx, cancel := engine.Cleanup(ctx)
	defer cancel()
	if err := e.rename(ctx, containerID, nameOf(id)); err != nil {
		return err // if the container still has the old name, the sandbox is suspended, and its checkpoint exists
	}
	_ = e.api.CheckpointDelete(ctx, containerID, checkpoint.DeleteOptions{CheckpointID: s.name}) // if this fails, the next suspend removes the checkpoint
	return nil
}

// startFrom starts the container containerID from a checkpoint in the container's own folder. The parameter from is the
// id of the container that the checkpoint was made of: the same container, or the original of a fork. The checkpoint's
// files are checked for damage while the container starts, and no client can reach the sandbox until the check has
// succeeded. If startFrom fails, the container does not run.
func (e *Engine) startFrom(ctx context.Context, containerID, from string, s checkpointRef) error {
	damage := make(chan error, 1)
	go func() { damage <- e.intact(containerID, s) }()
	startCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkpointTimeout)
	defer cancel()
	err := e.api.ContainerStart(startCtx, containerID, container.StartOptions{CheckpointID: s.name})
	for wait := startRetryDelay; err != nil && ctx.Err() == nil && wait <= maxStartRetryDelay; wait *= 2 {
		// containerd may still have an older copy of the checkpoint: from the time when the checkpoint was saved, or
		// from a start that an engine began before it was killed. Because of this copy the engine reports a failure, or
		// it uses the copy although the copy is incomplete. New modification times make the engine write another copy.
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
