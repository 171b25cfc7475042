package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

const (
	// startTimeout bounds how long a guest may take to answer.
	startTimeout = 20 * time.Second
	readyPoll    = 10 * time.Millisecond
	// cleanupTimeout bounds removing what a failed or cancelled call made.
	cleanupTimeout = 15 * time.Second
)

// cleanup is a context for tidying up after ctx, which may have ended.
func cleanup(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
}

// Create implements [engine.Engine].
func (e *Engine) Create(ctx context.Context, spec engine.Spec) error {
	if e.bundle == nil {
		return errors.New("create: the engine was opened without a guest")
	}
	if !sandbox.IsID(string(spec.ID)) {
		return sandbox.Errorf(sandbox.Invalid, "%q is no sandbox id", sandbox.Quote(string(spec.ID)))
	}
	img, err := e.inspectImage(ctx, spec.Image)
	if err != nil {
		return err
	}
	volume, err := e.guest.ensure(ctx, img)
	if err != nil {
		return err
	}
	err = e.start(ctx, spec, img, volume)
	if err == nil || ctx.Err() != nil || errors.Is(err, errExists) {
		return err
	}
	if lost, lostErr := e.guest.lost(ctx, volume, img); lost && lostErr == nil {
		err = e.start(ctx, spec, img, volume)
	}
	return err
}

var errExists = errors.New("the engine has a container of that name already")

// start makes a container and waits for its guest. It leaves nothing behind when it fails.
func (e *Engine) start(ctx context.Context, spec engine.Spec, img imageFacts, volume string) error {
	config, host := profile(spec, e.facts, img, volume)
	// Not to be given up: an engine goes on creating when nobody waits for it any more,
	// and the container would appear after we had looked for what to remove.
	createCtx, cancel := cleanup(ctx)
	defer cancel()
	made, err := e.api.ContainerCreate(createCtx, config, host, nil, nil, nameOf(spec.ID))
	if cerrdefs.IsConflict(err) {
		return fmt.Errorf("create %s: %w", spec.ID, errExists)
	}
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		if err = e.api.ContainerStart(ctx, made.ID, container.StartOptions{}); err == nil {
			err = e.awaitGuest(ctx, made.ID)
		}
	}
	if err == nil {
		return nil
	}
	cleanupCtx, cancelCleanup := cleanup(ctx)
	defer cancelCleanup()
	return errors.Join(wrap("start "+string(spec.ID), err), e.Remove(cleanupCtx, spec.ID))
}

// awaitGuest returns when the guest has answered one request, whatever the answer.
func (e *Engine) awaitGuest(ctx context.Context, container string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout,
		sandbox.Errorf(sandbox.Unavailable, "the sandbox did not start within %s: the machine may be overloaded", startTimeout))
	defer cancel()
	for {
		err := engine.Answers(ctx, func(ctx context.Context) (net.Conn, error) { return e.dial(ctx, container) })
		if err == nil {
			return nil
		}
		state, inspectErr := e.api.ContainerInspect(context.WithoutCancel(ctx), container)
		if inspectErr != nil {
			return errors.Join(err, inspectErr)
		}
		if !state.State.Running {
			return sandbox.Errorf(sandbox.Unavailable, "the sandbox ended before it answered: it %s", ending(state.State)).WithCause(err)
		}
		select {
		case <-time.After(readyPoll):
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

// find returns the container of a sandbox of this home.
func (e *Engine) find(ctx context.Context, id sandbox.ID) (container.InspectResponse, error) {
	if !sandbox.IsID(string(id)) {
		return container.InspectResponse{}, noSandbox(id)
	}
	found, err := e.api.ContainerInspect(ctx, nameOf(id))
	if cerrdefs.IsNotFound(err) {
		return found, noSandbox(id)
	}
	if err != nil {
		return found, wrap("look for "+string(id), err)
	}
	if found.Config == nil || found.Config.Labels[labelHome] != e.home {
		return found, noSandbox(id)
	}
	return found, nil
}

// Remove implements [engine.Engine].
func (e *Engine) Remove(ctx context.Context, id sandbox.ID) error {
	for {
		found, err := e.find(ctx, id)
		if sandbox.KindOf(err) == sandbox.NotFound {
			return nil
		}
		if err != nil {
			return err
		}
		err = e.api.ContainerRemove(ctx, found.ID, container.RemoveOptions{Force: true, RemoveVolumes: true})
		if err == nil || cerrdefs.IsNotFound(err) {
			return nil
		}
		// A conflict: somebody else is removing it. It is gone when it can't be found.
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

// List implements [engine.Engine].
func (e *Engine) List(ctx context.Context) ([]engine.Container, error) {
	summaries, err := e.api.ContainerList(ctx, container.ListOptions{All: true, Filters: filters.NewArgs(
		filters.Arg("label", labelHome+"="+e.home), filters.Arg("label", labelSandbox))})
	if err != nil {
		return nil, wrap("list containers", err)
	}
	list := make([]engine.Container, 0, len(summaries))
	for _, s := range summaries {
		id := s.Labels[labelSandbox]
		if !sandbox.IsID(id) {
			continue // not made by us, whatever its label says
		}
		c := engine.Container{ID: sandbox.ID(id), Running: s.State == container.StateRunning}
		if !c.Running {
			state, err := e.api.ContainerInspect(ctx, s.ID)
			if cerrdefs.IsNotFound(err) {
				continue // removed meanwhile
			}
			if err != nil {
				return nil, wrap("look at "+id, err)
			}
			c.Running, c.Detail = state.State.Running, ending(state.State)
		}
		list = append(list, c)
	}
	return list, nil
}

// ending says how a container ended.
func ending(s *container.State) string {
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
