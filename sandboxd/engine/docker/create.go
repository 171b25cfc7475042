package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/streams"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

const (
	// startTimeout bounds how long a guest may take to answer.
	startTimeout = 20 * time.Second
	readyPoll    = 10 * time.Millisecond
	// engineStartTimeout bounds the engine's own work to start a container, which takes 0.1 s on an idle machine.
	engineStartTimeout = time.Minute
)

// Create implements [engine.Engine].
func (e *Engine) Create(ctx context.Context, spec engine.Spec) error {
	if e.bundle == nil {
		return errors.New("create: the engine was opened without a guest")
	}
	if !sandbox.IsID(string(spec.ID)) {
		return sandbox.Errorf(sandbox.Invalid, "%q is not a sandbox id", sandbox.Quote(string(spec.ID)))
	}
	img, err := e.inspectImage(ctx, spec.Image)
	if err != nil {
		return err
	}
	if err := e.checkIDFree(ctx, spec.ID); err != nil {
		return err
	}
	volume, err := e.guest.ensure(ctx, img)
	if err != nil {
		return err
	}
	err = e.start(ctx, spec, img, volume)
	if err == nil || ctx.Err() != nil || errors.Is(err, engine.ErrExists) {
		return err
	}
	if refill, refillErr := e.guest.refill(ctx, volume.Name, img); refill && refillErr == nil {
		err = e.start(ctx, spec, img, volume)
	}
	return err
}

// start creates a container, starts it, and waits for its guest. If that fails, start removes the container.
func (e *Engine) start(ctx context.Context, spec engine.Spec, img imageFacts, volume guestVolume) error {
	config, host := profile(spec, e.facts, img, volume)
	// The create call does not end with ctx: an engine creates the container even if the call is cancelled, and the
	// container would appear after the cleanup below has looked for it.
	createCtx, cancel := engine.Cleanup(ctx)
	defer cancel()
	made, err := e.api.ContainerCreate(createCtx, config, host, nil, nil, nameOf(spec.ID))
	if cerrdefs.IsConflict(err) {
		return fmt.Errorf("create %s: %w", spec.ID, engine.ErrExists)
	}
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		// The start call does not end with ctx either: a cancelled start leaves a process of containerd (a shim) that
		// belongs to no container.
		startCtx, cancelStart := context.WithTimeout(context.WithoutCancel(ctx), engineStartTimeout)
		defer cancelStart()
		if err = e.api.ContainerStart(startCtx, made.ID, container.StartOptions{}); err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = e.awaitGuest(ctx, made.ID)
		}
	}
	if err == nil {
		return nil
	}
	cleanupCtx, cancelCleanup := engine.Cleanup(ctx)
	defer cancelCleanup()
	return errors.Join(wrap("start "+string(spec.ID), err), e.Remove(cleanupCtx, spec.ID))
}

// awaitGuest waits until the guest can be dialled. It returns an error if the container ends before that, or after
// startTimeout. The stream that it has opened for the check stays open, and the next Dial returns it.
func (e *Engine) awaitGuest(ctx context.Context, container string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout,
		sandbox.Errorf(sandbox.Unavailable, "the sandbox did not start within %s: the machine may be overloaded; try again", startTimeout))
	defer cancel()
	for err := error(nil); ; {
		found, inspectErr := e.api.ContainerInspect(ctx, container)
		switch {
		case ctx.Err() != nil:
			return errors.Join(context.Cause(ctx), err)
		case inspectErr != nil:
			return errors.Join(inspectErr, err)
		case !found.State.Running:
			return sandbox.Errorf(sandbox.Unavailable, "the sandbox ended before it answered: it %s", describeState(found.State)).WithCause(err)
		}
		var s streams.Stream
		if s, err = e.dial(ctx, container, found.State.Pid); err == nil {
			e.streams.Offer(container, s)
			return nil
		}
		select {
		case <-time.After(readyPoll):
		case <-ctx.Done():
		}
	}
}

// find returns the container of a sandbox of this home. It looks for the name first, which is fastest, and then for
// the label, because the container of a suspended sandbox has another name.
func (e *Engine) find(ctx context.Context, id sandbox.ID) (container.InspectResponse, error) {
	if !sandbox.IsID(string(id)) {
		return container.InspectResponse{}, engine.ErrNotFound(id)
	}
	found, err := e.api.ContainerInspect(ctx, nameOf(id))
	if cerrdefs.IsNotFound(err) {
		var labelled []listedContainer
		if labelled, err = e.listContainers(ctx, filters.Arg("label", labelSandbox+"="+string(id))); err != nil {
			return found, err
		}
		if len(labelled) == 0 {
			return found, engine.ErrNotFound(id)
		}
		found, err = e.api.ContainerInspect(ctx, labelled[0].container)
	}
	if cerrdefs.IsNotFound(err) {
		return found, engine.ErrNotFound(id)
	}
	if err != nil {
		return found, wrap("look for "+string(id), err)
	}
	if found.Config == nil || found.Config.Labels[labelHome] != e.home {
		return found, engine.ErrNotFound(id)
	}
	return found, nil
}

// checkIDFree returns an error if a sandbox of that id exists. The engine refuses only a second container of the same
// name, and the container of a suspended sandbox has another name.
func (e *Engine) checkIDFree(ctx context.Context, id sandbox.ID) error {
	_, err := e.find(ctx, id)
	switch {
	case err == nil:
		return fmt.Errorf("create %s: %w", id, engine.ErrExists)
	case sandbox.KindOf(err) == sandbox.NotFound:
		return nil
	}
	return err
}

// Remove implements [engine.Engine]. It waits while the sandbox is being suspended, resumed or forked: a checkpoint
// that is still being written would reappear after its container is removed.
func (e *Engine) Remove(ctx context.Context, id sandbox.ID) error {
	release, err := e.changes.Acquire(ctx, id)
	if err != nil {
		return fmt.Errorf("remove %s: %w", id, err)
	}
	defer release()
	e.resumedIDs.Delete(id)
	return e.remove(ctx, id)
}

// remove implements Remove. The caller must hold the sandbox's lock in e.changes.
func (e *Engine) remove(ctx context.Context, id sandbox.ID) error {
	for {
		found, err := e.find(ctx, id)
		if sandbox.KindOf(err) == sandbox.NotFound {
			return nil
		}
		if err != nil {
			return err
		}
		if found.State.Paused && e.facts.gvisor() { // Docker 20.10 can't kill a paused gVisor container, and leaves its shim
			unpauseCtx, cancel := engine.Cleanup(ctx)
			err := e.api.ContainerUnpause(unpauseCtx, found.ID)
			cancel()
			if err != nil && !cerrdefs.IsConflict(err) && !cerrdefs.IsNotFound(err) { // a conflict means that the container is not paused
				return wrap("unpause "+string(id)+" to remove it", err)
			}
		}
		// The copies are removed before the container, because only the container's id and name identify them.
		if err := e.removeCopies(found.ID, checkpointInName(found.Name).sum); err != nil {
			return wrap("remove copies of the memory of "+string(id), err)
		}
		err = e.api.ContainerRemove(ctx, found.ID, container.RemoveOptions{Force: true, RemoveVolumes: true})
		if err == nil || cerrdefs.IsNotFound(err) {
			return nil
		}
		// A conflict means that another call is removing the container. It is removed when find no longer finds it.
		if !cerrdefs.IsConflict(err) {
			return wrap("remove "+string(id), err)
		}
		select {
		case <-time.After(readyPoll):
		case <-ctx.Done():
			return fmt.Errorf("remove %s: %w", id, ctx.Err())
		}
	}
}

// listedContainer is a container of this home, as the engine lists it.
type listedContainer struct {
	id        sandbox.ID
	container string
	name      string
	state     container.ContainerState
}

// listContainers lists the containers of this home's sandboxes.
func (e *Engine) listContainers(ctx context.Context, only ...filters.KeyValuePair) ([]listedContainer, error) {
	args := append(only, filters.Arg("label", labelHome+"="+e.home), filters.Arg("label", labelSandbox))
	found, err := e.api.ContainerList(ctx, container.ListOptions{All: true, Filters: filters.NewArgs(args...)})
	if err != nil {
		return nil, wrap("list containers", err)
	}
	var list []listedContainer
	for _, s := range found {
		id := s.Labels[labelSandbox]
		if !sandbox.IsID(id) {
			continue // the label's value is no id, so Dormouse did not make this container
		}
		list = append(list, listedContainer{sandbox.ID(id), s.ID, strings.Join(s.Names, ""), s.State})
	}
	return list, nil
}

// List implements [engine.Engine].
func (e *Engine) List(ctx context.Context) ([]engine.Container, error) {
	all, err := e.listContainers(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]engine.Container, 0, len(all))
	for _, s := range all {
		c := engine.Container{ID: s.id}
		checkpoint := checkpointInName(s.name).name
		switch {
		case checkpoint != "": // the sandbox is suspended, even while its container is being killed or started
			c.Suspended, c.Detail, c.StateBytes = true, "is suspended", e.checkpointBytes(s.container, checkpoint)
		case s.state == container.StatePaused:
			c.Suspended, c.Detail = true, "is paused"
		case s.state == container.StateRunning:
			c.Running = true
		default:
			state, err := e.api.ContainerInspect(ctx, s.container)
			if cerrdefs.IsNotFound(err) {
				continue // the container was removed after the engine had listed it
			}
			if err != nil {
				return nil, wrap("look at "+string(s.id), err)
			}
			c.Running, c.Detail = state.State.Running, describeState(state.State)
		}
		list = append(list, c)
	}
	return list, nil
}

// describeState describes how a container ended, or its state if it has not ended.
func describeState(s *container.State) string {
	switch {
	case s.Status == container.StateCreated:
		return "was never started"
	case s.OOMKilled:
		return fmt.Sprintf("exited with %d (out of memory)", s.ExitCode)
	case s.Status == container.StateExited || s.Status == container.StateDead:
		return fmt.Sprintf("exited with %d", s.ExitCode)
	}
	return "is " + cmp.Or(string(s.Status), "in no known state")
}
