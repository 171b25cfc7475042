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

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/streams"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/stdio"
)

// Dial implements [engine.Engine]. It waits while the sandbox is being suspended or resumed.
func (e *Engine) Dial(ctx context.Context, id sandbox.ID) (net.Conn, error) {
	done, err := e.turns.toDial(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", id, err)
	}
	defer done()
	found, err := e.findSettled(ctx, id)
	if err != nil {
		return nil, err
	}
	switch {
	case savedIn(found.Name).name != "" || found.State.Paused:
		return nil, asleep()
	case !found.State.Running:
		return nil, noSandbox(id)
	}
	if s, ok := e.streams.Take(found.ID); ok {
		return s, nil
	}
	s, err := e.dial(ctx, found.ID, found.State.Pid)
	if cerrdefs.IsNotFound(err) || cerrdefs.IsConflict(err) {
		return nil, noSandbox(id).WithCause(err) // it ended meanwhile
	}
	if err != nil {
		return nil, wrap("dial "+string(id), err)
	}
	return s, nil
}

// dial runs `guest connect`, which joins its stdin and stdout to the guest, and ends when its stdin does. The engine says that pid is the
// container's first process.
func (e *Engine) dial(ctx context.Context, box string, pid int) (streams.Stream, error) {
	var errs error
	if runtime, ok := e.runtimeOf(box, pid); ok {
		s, err := streams.Start(runtime.connect(box))
		if err == nil {
			if err = e.join(ctx, box, s); err == nil {
				return s, nil
			}
		}
		errs = fmt.Errorf("%s exec: %w", runtime.program, err) // the engine's exec does it, too
	}
	s, err := e.exec(ctx, box)
	if err == nil {
		if err = e.join(ctx, box, s); err == nil {
			return s, nil
		}
	}
	return nil, errors.Join(err, errs)
}

// join returns when the guest has the stream. If it fails, the stream is closed.
func (e *Engine) join(ctx context.Context, box string, s streams.Stream) error {
	e.streams.Add(box, s)
	return stdio.AwaitJoined(ctx, s)
}

// exec runs `guest connect` as everybody can, through the engine.
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
	e.endWith(id, s)
	return s, nil
}

// lastWords is how long a stream may go on after its container has ended.
const lastWords = 500 * time.Millisecond

// endWith closes the stream when the container ends. The engine should, but Docker
// with runsc often forgets an exec whose container is gone, and a reader would wait for ever.
func (e *Engine) endWith(id string, s *stream) {
	go func() {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		ended, failed := e.api.ContainerWait(ctx, id, container.WaitConditionNotRunning)
		select {
		case <-ended:
		case <-failed: // it is removed already, or the engine has gone
		case <-s.ended:
			return
		}
		select {
		case <-time.After(lastWords):
			s.Close()
		case <-s.ended:
		}
	}()
}

// attach starts the exec and takes over its connection. Docker's client does not
// heed ctx while it waits for the engine's answer, so that is done here.
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
