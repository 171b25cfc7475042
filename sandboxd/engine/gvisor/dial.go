package gvisor

import (
	"context"
	"fmt"
	"net"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/streams"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Dial implements [engine.Engine]. While the sandbox is being suspended or resumed, Dial waits.
func (e *Engine) Dial(ctx context.Context, id sandbox.ID) (net.Conn, error) {
	release, err := e.locks.Acquire(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", id, err)
	}
	defer release()
	r, err := e.layout.Find(id)
	if err != nil {
		return nil, err
	}
	if e.layout.Suspended(id) {
		return nil, engine.ErrSuspended()
	}
	if _, alive := e.processOfSandbox(id); !alive {
		if folder.Exists(e.layout.Fallback(id)) {
			return nil, engine.ErrSuspended()
		}
		return nil, engine.ErrNotFound(id)
	}
	if s, ok := e.streams.Take(string(id)); ok {
		return s, nil
	}
	s, err := e.connect(ctx, id, r.Build)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", id, err)
	}
	return s, nil
}

// connect runs `guest connect` in a sandbox and returns the stdin and stdout of this program as a stream. The program
// connects them to the guest's socket, and exits when its stdin is closed.
func (e *Engine) connect(ctx context.Context, id sandbox.ID, build string) (*streams.Program, error) {
	args := append([]string{"exec", "--user=0:0", "--cwd=/", e.layout.InstanceOf(id).Name}, engine.ConnectArgs()...)
	s, err := e.runsc.Stream(build, args...)
	if err != nil {
		return nil, err
	}
	if err := e.streams.Join(ctx, string(id), s); err != nil {
		return nil, err
	}
	return s, nil
}
