package tools

import (
	"context"
	"errors"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// ErrUnwanted is the cause with which package server cancels a call's context if the client has cancelled the call and
// uses a protocol version in which a cancellation also stops the code. The tools then interrupt the execution that the
// call started. If the context ends for another reason, for example because the client disconnected, the execution
// continues.
var ErrUnwanted = errors.New("the client cancelled the call")

// interruptUnwanted looks for the execution up to unwantedAttempts times, once every unwantedInterval, because the daemon
// may not have recorded it yet. It gives up after unwantedTimeout.
const (
	unwantedTimeout  = 30 * time.Second
	unwantedInterval = 100 * time.Millisecond
	unwantedAttempts = 20
)

// interruptUnwanted interrupts the execution that was started with a request id if ctx was cancelled with [ErrUnwanted].
// Otherwise it does nothing.
func (t *toolset) interruptUnwanted(ctx context.Context, requestID string) {
	if !errors.Is(context.Cause(ctx), ErrUnwanted) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unwantedTimeout)
	defer cancel()
	for range unwantedAttempts {
		ex, err := t.sandboxes.FindExecution(ctx, requestID)
		if err == nil && !ex.State.Final() {
			_, err = t.sandboxes.Interrupt(ctx, string(ex.ID))
		}
		if sandbox.KindOf(err) != sandbox.NotFound {
			if err != nil {
				t.log.Warn("a cancelled call's execution was not interrupted", "error", err)
			}
			return
		}
		time.Sleep(unwantedInterval) // the daemon may not have recorded the execution yet
	}
}
