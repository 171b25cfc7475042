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

// How a sandbox is suspended is the engine's matter, and [engine.Info] says which it is.
//
// To disk, under gVisor on an engine with experimental features: the engine checkpoints the sandbox, which
// runs on; then its container is renamed, and then killed. The name is the durable mark, because
// an engine can't change labels, and it names the one checkpoint that is whole, and its sum. So whoever is killed, the engine
// itself included: before the rename the sandbox runs, and what there is of a checkpoint is nobody's; after it
// the sandbox is suspended, even if it still runs, because no stream is open and nobody was
// told of what it does. Resume starts the container from the checkpoint and renames it back when its guest
// has answered. The engine could end the sandbox itself when it has the memory, but does so
// before the checkpoint has its name.
//
// Else paused: the container's own state is the mark. It keeps its memory, and ends with the machine.

const (
	// checkpointTimeout bounds the engine's work, which nobody can call off.
	checkpointTimeout = 5 * time.Minute
	// hangUpTimeout is how long streams may take to end.
	hangUpTimeout = 10 * time.Second
	hangUpPoll    = 5 * time.Millisecond
	// startAgain is the pause before a start that failed is tried again; each is twice the last.
	startAgain    = 50 * time.Millisecond
	maxStartAgain = 2 * time.Second
	// thawAfter is how soon a guest answers that is not frozen.
	thawAfter     = 2 * time.Second
	unpauseTries  = 5
	settlePoll    = 20 * time.Millisecond
	checkpointTag = "-asleep-"
)

var (
	_ engine.Suspender = (*Engine)(nil)
	_ engine.Forker    = (*Engine)(nil)
)

// suspensionOf returns how sandboxes are suspended. Podman calls itself experimental, and its Docker API has no checkpoints. If
// containerd's copies of saved memory can't be removed, sandboxes are paused, because each resume would leave a copy.
func suspensionOf(sys system.Info, versions map[string]string, facts engineFacts) engine.Suspension {
	_, podman := versions["Podman Engine"]
	if facts.gvisor() && sys.ExperimentalBuild && !podman && facts.CopiesStay == "" {
		return engine.ToDisk
	}
	return engine.Paused
}

var errDialled = sandbox.Errorf(sandbox.Busy, "the sandbox is being dialled, and the engine does not answer: try again")

// saved is a checkpoint: its name, and what its files sum up to if they can be read from here.
type saved struct{ name, sum string }

// asleepName is the name of a suspended sandbox's container.
func asleepName(id sandbox.ID, s saved) string {
	return nameOf(id) + checkpointTag + s.name + "-" + s.sum
}

// savedIn returns the checkpoint that a container's name says it is suspended to; without a name, it is not.
func savedIn(container string) (s saved) {
	_, rest, _ := strings.Cut(container, checkpointTag)
	s.name, s.sum, _ = strings.Cut(rest, "-")
	return s
}

// newCheckpoint is a name that no other call has used: the engine goes on with one that nobody
// waits for any more, and must not write into ours.
func newCheckpoint() string { return strings.ToLower(rand.Text()[:12]) }

// alone gives a sandbox to one who suspends, resumes or copies it.
func (e *Engine) alone(ctx context.Context, id sandbox.ID) (done func(), err error) {
	changed, err := e.turns.toChange(ctx, id)
	if err != nil {
		return nil, err
	}
	waitCtx, cancel := context.WithTimeoutCause(ctx, hangUpTimeout, errDialled)
	defer cancel()
	dialled, err := e.turns.toBeAlone(waitCtx, id)
	if err != nil {
		changed()
		if ctx.Err() == nil {
			err = context.Cause(waitCtx)
		}
		return nil, err
	}
	return func() { dialled(); changed() }, nil
}

// Suspend implements [engine.Suspender].
func (e *Engine) Suspend(ctx context.Context, id sandbox.ID) error {
	done, err := e.alone(ctx, id)
	if err != nil {
		return err
	}
	defer done()
	found, err := e.findSettled(ctx, id)
	if err != nil {
		return err
	}
	switch {
	case savedIn(found.Name).name != "":
		return e.end(ctx, found.ID)
	case found.State.Paused:
		return nil
	case !found.State.Running:
		return noSandbox(id)
	}
	e.streams.Close(found.ID)
	if e.info.Suspend == engine.ToDisk {
		return e.putToSleep(ctx, id, found.ID)
	}
	if err := e.pause(ctx, found.ID); err != nil {
		return sandbox.Errorf(sandbox.Unavailable, "the engine could not pause the sandbox, which runs on").WithCause(err)
	}
	e.thawed.Delete(id)
	return nil
}

// findSettled is find, for whom it matters whether a container is paused. Docker hears of that twice: from who
// does it, and later from containerd, so that what was just resumed can be paused again in its view for a moment.
func (e *Engine) findSettled(ctx context.Context, id sandbox.ID) (found container.InspectResponse, err error) {
	for end := time.Now().Add(thawAfter); ; {
		found, err = e.find(ctx, id)
		if _, ours := e.thawed.Load(id); err != nil || !found.State.Paused || !ours || time.Now().After(end) {
			return found, err
		}
		select {
		case <-time.After(settlePoll):
		case <-ctx.Done():
			return found, ctx.Err()
		}
	}
}

// putToSleep suspends to disk.
func (e *Engine) putToSleep(ctx context.Context, id sandbox.ID, box string) error {
	if err := e.dropCheckpoints(ctx, box); err != nil {
		return wrap("suspend "+string(id), err)
	}
	s, err := e.save(ctx, box, box)
	if err != nil {
		return wrap("suspend "+string(id), err)
	}
	// From here on it goes through: the state is kept.
	ctx, cancel := cleanup(ctx)
	defer cancel()
	if err := e.api.ContainerRename(ctx, box, asleepName(id, s)); err != nil {
		return wrap("mark "+string(id)+" as suspended", err)
	}
	return wrap("end "+string(id), e.end(ctx, box))
}

// save has the engine write the memory of the container from, which runs on, as a checkpoint of the
// container to.
func (e *Engine) save(ctx context.Context, from, to string) (s saved, err error) {
	if err := e.hangUp(ctx, from); err != nil {
		return s, err
	}
	s.name = newCheckpoint()
	options := checkpoint.CreateOptions{CheckpointID: s.name}
	if from != to {
		options.CheckpointDir = e.checkpointsOf(to)
	}
	// Not to be given up: an engine goes on when nobody waits for it any more.
	saveCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkpointTimeout)
	defer cancel()
	err = e.api.CheckpointCreate(saveCtx, from, options)
	switch {
	case err != nil && gone(err):
	case err != nil && strings.Contains(err.Error(), "invalid task checkpoint option"):
		// Docker 20.10 forgets what it needs for it.
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
		_ = e.removeCopies(from, "")                                                            // else the next start of the daemon removes them
		_ = e.api.CheckpointDelete(saveCtx, to, checkpoint.DeleteOptions{CheckpointID: s.name}) // else the next suspend does
	}
	return s, err
}

// hangUp waits until no program runs in a container that the engine has joined to somebody: its pipes
// can't be in a checkpoint. Ours end because their streams are closed.
func (e *Engine) hangUp(ctx context.Context, box string) error {
	for deadline := time.Now().Add(hangUpTimeout); ; {
		found, err := e.api.ContainerInspect(ctx, box)
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
		case <-time.After(hangUpPoll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Resume implements [engine.Suspender].
func (e *Engine) Resume(ctx context.Context, id sandbox.ID) error {
	done, err := e.alone(ctx, id)
	if err != nil {
		return err
	}
	defer done()
	found, err := e.find(ctx, id)
	if err != nil {
		return err
	}
	s := savedIn(found.Name)
	switch {
	case s.name != "":
		if err = e.end(ctx, found.ID); err == nil { // it runs if a suspend or resume was cut short
			err = e.wake(ctx, id, found.ID, s)
		}
	case !found.State.Running: // what is paused does run, for Docker
		err = noSandbox(id)
	case e.info.Suspend == engine.ToDisk && !found.State.Paused:
		err = e.thaw(ctx, found.ID)
	default: // also if it is not paused in the engine's view, which may lag behind
		err = e.unpause(ctx, found.ID)
	}
	if err == nil {
		e.thawed.Store(id, true)
	}
	return wrap("resume "+string(id), err)
}

// wake starts a container from its checkpoint, which is then gone.
func (e *Engine) wake(ctx context.Context, id sandbox.ID, box string, s saved) error {
	if err := e.startFrom(ctx, box, box, s); err != nil {
		return err
	}
	ctx, cancel := cleanup(ctx)
	defer cancel()
	if err := e.api.ContainerRename(ctx, box, nameOf(id)); err != nil {
		return err // whichever name it has, it is what the name says
	}
	_ = e.api.CheckpointDelete(ctx, box, checkpoint.DeleteOptions{CheckpointID: s.name}) // else the next suspend does
	return nil
}

// startFrom starts a container from a checkpoint in its own folder; the checkpoint contains the memory of the container from. The files
// are checked for damage while the container starts, and no client can reach the sandbox until the check has succeeded. If startFrom
// fails, nothing runs.
func (e *Engine) startFrom(ctx context.Context, box, from string, s saved) error {
	damage := make(chan error, 1)
	go func() { damage <- e.whole(box, s) }()
	startCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkpointTimeout)
	defer cancel()
	err := e.api.ContainerStart(startCtx, box, container.StartOptions{CheckpointID: s.name})
	for wait := startAgain; err != nil && ctx.Err() == nil && wait <= maxStartAgain; wait *= 2 {
		// containerd has a copy of the checkpoint left, from when it was made or from an engine that was killed,
		// and the engine takes that for a failure, or half a copy for a whole one. So it gets another one.
		e.touchCheckpoint(box, s.name)
		time.Sleep(wait)
		err = e.api.ContainerStart(startCtx, box, container.StartOptions{CheckpointID: s.name})
	}
	// The restore has succeeded or failed, so the copies are no longer read. If they can't be removed now, the next start of the
	// daemon removes them.
	_ = e.removeCopies(from, s.sum)
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = e.awaitGuest(ctx, box)
	}
	damaged := <-damage
	if err == nil && damaged == nil {
		return nil
	}
	cleanupCtx, cancelCleanup := cleanup(ctx)
	defer cancelCleanup()
	if damaged != nil {
		err = damaged
	} else if kept, listErr := e.hasCheckpoint(cleanupCtx, box, s.name); listErr == nil && !kept {
		err = sandbox.Errorf(sandbox.Expired, "it can't be resumed, because the engine has lost its saved memory").WithCause(err)
	}
	return errors.Join(err, e.end(cleanupCtx, box))
}

// thaw makes sure that a container which the engine takes for running does run. An engine that was killed
// while it made a checkpoint can leave it frozen, and not know it.
func (e *Engine) thaw(ctx context.Context, box string) error {
	if left, err := e.api.CheckpointList(ctx, box, checkpoint.ListOptions{}); err != nil || len(left) == 0 {
		return nil // no checkpoint was cut short
	}
	soon, cancel := context.WithTimeout(ctx, thawAfter)
	defer cancel()
	if e.awaitGuest(soon, box) == nil {
		return e.dropCheckpoints(ctx, box)
	}
	_ = e.pause(ctx, box) // which it may be already
	if err := e.unpause(ctx, box); err != nil {
		return err
	}
	return e.dropCheckpoints(ctx, box)
}

// pause freezes a container. It is not to be given up: an engine that nobody waits for pauses it later.
func (e *Engine) pause(ctx context.Context, box string) error {
	ctx, cancel := cleanup(ctx)
	defer cancel()
	e.streams.Close(box)
	// An exec that the engine still starts, for a dial that was given up, would hang in a frozen container, and every
	// question about it with it (Docker 20.10). The engine answers this one when no exec is being started.
	if _, err := e.api.ContainerInspect(ctx, box); err != nil {
		return err
	}
	return e.api.ContainerPause(ctx, box)
}

// unpause lets a paused container go on. An engine whose view lags behind says that it can't: what counts is whether
// the guest answers.
func (e *Engine) unpause(ctx context.Context, box string) error {
	var errs error
	for range unpauseTries {
		unpauseCtx, cancel := cleanup(ctx)
		err := e.api.ContainerUnpause(unpauseCtx, box)
		cancel()
		soon, cancel := context.WithTimeout(ctx, thawAfter)
		answers := e.awaitGuest(soon, box)
		cancel()
		if answers == nil {
			return nil
		}
		errs = errors.Join(err, answers)
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs, e.pause(ctx, box))
}

// end kills a container that may run, and waits until it does not.
func (e *Engine) end(ctx context.Context, box string) error {
	ctx, cancel := cleanup(ctx)
	defer cancel()
	err := e.api.ContainerKill(ctx, box, "KILL")
	if err != nil && !cerrdefs.IsConflict(err) && !cerrdefs.IsNotFound(err) { // a conflict: it does not run
		return err
	}
	ended, failed := e.api.ContainerWait(ctx, box, container.WaitConditionNotRunning)
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

func (e *Engine) hasCheckpoint(ctx context.Context, box, name string) (bool, error) {
	list, err := e.api.CheckpointList(ctx, box, checkpoint.ListOptions{})
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

// dropCheckpoints removes what was not finished, or was resumed from, of a container that runs.
func (e *Engine) dropCheckpoints(ctx context.Context, box string) error {
	list, err := e.api.CheckpointList(ctx, box, checkpoint.ListOptions{})
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range list {
		errs = append(errs, e.api.CheckpointDelete(ctx, box, checkpoint.DeleteOptions{CheckpointID: c.Name}))
	}
	return errors.Join(errs...)
}

// recover puts right what a daemon or an engine that was killed has left: what is suspended and still runs
// is ended, and what runs and is frozen goes on. What can't be put right is when it is resumed or removed.
func (e *Engine) recover(ctx context.Context) error {
	all, err := e.summaries(ctx)
	if err != nil {
		return err
	}
	for _, s := range all {
		// A killed daemon may have left a start of the container in progress. The engine answers an inspect only after that start has
		// ended, so the copies are no longer read.
		_, err := e.api.ContainerInspect(ctx, s.container)
		if err == nil {
			err = e.removeCopies(s.container, savedIn(s.name).sum)
		}
		if err != nil && !cerrdefs.IsNotFound(err) {
			e.info.Warnings = append(e.info.Warnings, fmt.Sprintf("sandbox %s: copies of its memory may be left in %s: %v", s.id, strings.Join(e.facts.CopyPlaces, ", "), err))
		}
		if s.state != container.StateRunning {
			continue
		}
		err = nil
		if savedIn(s.name).name != "" {
			err = e.end(ctx, s.container)
		} else if e.info.Suspend == engine.ToDisk {
			err = e.thaw(ctx, s.container)
		}
		if err != nil {
			e.info.Warnings = append(e.info.Warnings, fmt.Sprintf("sandbox %s: a suspend was cut short, and could not be put right: see that the engine works", s.id))
		}
	}
	return nil
}

// asleep is the answer to who dials a sandbox that is suspended.
func asleep() error {
	return sandbox.Errorf(sandbox.Busy, "the sandbox is suspended, and was not resumed: try again")
}
