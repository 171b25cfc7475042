package docker

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/docker/docker/api/types/checkpoint"
	"github.com/docker/docker/api/types/container"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

const (
	// answerTimeout is the time in which a guest answers if it is not frozen.
	answerTimeout = 2 * time.Second
	unpauseTries  = 5
	pauseTries    = 5
	settlePoll    = 20 * time.Millisecond
)

// findSettled is like find, for callers that need to know whether the container is paused. Docker records each pause
// and unpause twice: when it handles the call, and again when an event of containerd arrives. If the event of a pause
// arrives after the container was unpaused, Docker reports the running container as paused for a moment. So if this
// process has resumed the sandbox, findSettled waits until Docker reports the container as not paused, but at most for
// answerTimeout.
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

// unfreeze makes sure that a container runs if the engine reports it as running. An engine that was killed while it
// made a checkpoint can leave the container frozen without reporting it as paused.
func (e *Engine) unfreeze(ctx context.Context, containerID string) error {
	left, listErr := e.api.CheckpointList(ctx, containerID, checkpoint.ListOptions{})
	if listErr == nil && len(left) == 0 {
		return nil // no checkpoint was interrupted
	}
	answerCtx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if e.awaitGuest(answerCtx, containerID) != nil {
		if ctx.Err() != nil {
			return ctx.Err() // ctx ended before the guest could answer, so the container may be running
		}
		// The engine unpauses only a container that it reports as paused. The pause may fail, because the container may
		// be paused already.
		_ = e.pause(ctx, containerID)
		if err := e.unpause(ctx, containerID); err != nil {
			return err
		}
	}
	_ = e.dropCheckpoints(ctx, containerID) // if this fails, the next suspend removes the checkpoints
	return nil
}

// pause closes the streams to a container and freezes the container. The calls do not end with ctx: an engine would
// pause the container even if the call were cancelled.
func (e *Engine) pause(ctx context.Context, containerID string) error {
	ctx, cancel := engine.Cleanup(ctx)
	defer cancel()
	e.streams.Close(containerID)
	// The engine may still be starting an exec for a dial that was cancelled. In a frozen container that exec would
	// hang, and every inspect of the container would hang too (Docker 20.10). The engine answers this inspect only
	// after it has started the exec.
	if _, err := e.api.ContainerInspect(ctx, containerID); err != nil {
		return err
	}
	var err error
	for range pauseTries {
		// On a busy machine with cgroup v1, runc can give up before the machine's kernel has frozen all processes, and
		// then lets them run again. Only the text of runc's error identifies this failure. No test can provoke it, so
		// no test fails if another version of runc changes the text.
		if err = e.api.ContainerPause(ctx, containerID); err == nil || !strings.Contains(err.Error(), "unable to freeze") {
			break
		}
	}
	return err
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
