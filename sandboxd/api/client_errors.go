package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// ErrNotRunning is in the chain of an error that says that no daemon answers.
var ErrNotRunning = errors.New("the daemon is not running")

// lost turns the failure of a request into an error that says what to do.
func lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("ask the daemon: %w", context.Cause(ctx))
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		if errors.Is(err, fs.ErrPermission) {
			return sandbox.Errorf(sandbox.Unavailable, "the Dormouse daemon belongs to another user: use a DORMOUSE_HOME of your own").WithCause(err)
		}
		return sandbox.Errorf(sandbox.Unavailable, "the Dormouse daemon is not running: start it with `dormouse sandboxd`").
			WithCause(fmt.Errorf("%w: %w", ErrNotRunning, err))
	}
	return sandbox.Errorf(sandbox.Unavailable, "the connection to the Dormouse daemon was lost: try again; code that has begun goes on, and the same request_id finds it").WithCause(err)
}
