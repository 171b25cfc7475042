package engine

import (
	"context"
	"errors"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// ErrExists is wrapped by the error of a call that would create a sandbox whose id is in use.
var ErrExists = errors.New("a sandbox with this id exists already")

// ErrNotFound returns the error of a call for a sandbox that does not exist or has ended.
func ErrNotFound(id sandbox.ID) *sandbox.Error {
	return sandbox.Errorf(sandbox.NotFound, "there is no running sandbox %q here", sandbox.Quote(string(id)))
}

// ErrSuspended returns the error of a call that needs a running sandbox, for a sandbox that is suspended.
func ErrSuspended() *sandbox.Error {
	return sandbox.Errorf(sandbox.Busy, "the sandbox is suspended, and was not resumed: try again")
}

// cleanupTimeout is the timeout of a context that [Cleanup] returns.
const cleanupTimeout = 30 * time.Second

// Cleanup returns a context for work that must complete even if ctx has ended, such as the removal of a container after
// a failed create. The caller must call cancel.
func Cleanup(ctx context.Context) (_ context.Context, cancel context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
}
