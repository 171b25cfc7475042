package docker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/system"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/docker/directexec"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/streams"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Dial implements [engine.Engine]. It waits while the sandbox is being suspended, resumed or forked.
func (e *Engine) Dial(ctx context.Context, id sandbox.ID) (net.Conn, error) {
	release, err := e.dials.AcquireShared(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", id, err)
	}
	defer release()
	found, err := e.findSettled(ctx, id)
	if err != nil {
		return nil, err
	}
	switch {
	case checkpointInName(found.Name).name != "" || found.State.Paused:
		return nil, engine.ErrSuspended()
	case !found.State.Running:
		return nil, engine.ErrNotFound(id)
	}
	if s, ok := e.streams.Take(found.ID); ok {
		return s, nil
	}
	s, err := e.dial(ctx, found.ID, found.State.Pid)
	if cerrdefs.IsNotFound(err) || cerrdefs.IsConflict(err) {
		return nil, engine.ErrNotFound(id).WithCause(err) // the container ended in the meantime
	}
	if err != nil {
		return nil, wrap("dial "+string(id), err)
	}
	return s, nil
}

// dial runs `guest connect` in a container and returns the stdin and stdout of `guest connect` as a stream to the
// guest. Closing the stream ends `guest connect`. pid is the pid of the container's first process, as the engine
// reports it.
func (e *Engine) dial(ctx context.Context, containerID string, pid int) (streams.Stream, error) {
	var errs error
	if runtime, ok := e.runtimeOf(containerID, pid); ok {
		s, err := streams.Start(runtime.Connect(containerID))
		if err == nil {
			if err = e.streams.Join(ctx, containerID, s); err == nil {
				return s, nil
			}
		}
		errs = fmt.Errorf("%s exec: %w", runtime.Program, err) // returned only if the engine's exec, which is tried next, fails too
	}
	s, err := e.exec(ctx, containerID)
	if err == nil {
		if err = e.streams.Join(ctx, containerID, s); err == nil {
			return s, nil
		}
	}
	return nil, errors.Join(err, errs)
}

// directExec reports whether guests may be reached through the container's runtime. local is true if the engine may be
// on this machine, and off is [Config].NoDirectExec. An engine with an authorization plugin must always be asked,
// because the plugin checks only calls to the engine.
func directExec(local, off bool, sys system.Info) bool {
	return local && !off && len(sys.Plugins.Authorization) == 0
}

// runtimeOf returns the runtime of a container if this process can call the runtime. pid is the pid of the container's
// first process, as the engine reports it.
func (e *Engine) runtimeOf(container string, pid int) (directexec.Runtime, bool) {
	if !e.direct {
		return directexec.Runtime{}, false
	}
	return directexec.Find(container, pid)
}

// exec runs `guest connect` through the engine's exec, which every engine has, and returns the stream to the guest.
func (e *Engine) exec(ctx context.Context, id string) (*stream, error) {
	exec, err := e.api.ContainerExecCreate(ctx, id, container.ExecOptions{
		User:         "0:0",
		WorkingDir:   "/",
		Cmd:          engine.ConnectArgs(),
		AttachStdin:  true,
		AttachStdout: true,
		AttachStderr: true,
	})
	if err != nil {
		return nil, err
	}
	s, err := e.attach(ctx, exec.ID)
	if err != nil {
		return nil, err
	}
	e.closeWithContainer(id, s)
	return s, nil
}

// gracePeriod is how long a stream may stay open after its container has ended.
const gracePeriod = 500 * time.Millisecond

// closeWithContainer closes the stream when the container ends, or when the engine can't report that. The engine
// should close the stream itself, but Docker with runsc often does not end an exec when its container ends, and a reader
// would wait forever.
func (e *Engine) closeWithContainer(id string, s *stream) {
	go func() {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		ended, failed := e.api.ContainerWait(ctx, id, container.WaitConditionNotRunning)
		select {
		case <-ended:
		case <-failed: // the container is already removed, or the engine does not answer
		case <-s.ended:
			return
		}
		select {
		case <-time.After(gracePeriod):
			s.Close()
		case <-s.ended:
		}
	}()
}

// attach starts an exec and returns its connection. exec is the exec's id. Docker's client ignores ctx while it waits
// for the engine's answer, so attach does not wait for the client after ctx has ended.
func (e *Engine) attach(ctx context.Context, exec string) (*stream, error) {
	type answer struct {
		types.HijackedResponse
		err error
	}
	answers := make(chan answer, 1)
	go func() {
		resp, err := e.api.ContainerExecAttach(ctx, exec, container.ExecAttachOptions{})
		answers <- answer{resp, err}
	}()
	select {
	case a := <-answers:
		if a.err != nil {
			return nil, a.err
		}
		return newStream(a.Conn, a.Reader), nil
	case <-ctx.Done():
		go func() {
			if a := <-answers; a.err == nil {
				a.Close()
			}
		}()
		return nil, fmt.Errorf("attach: %w", ctx.Err())
	}
}
