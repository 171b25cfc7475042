package tools

import (
	"context"
	"errors"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// ErrUnwanted is the cause of a call's context that ends because its client has cancelled the call, and wants what it
// started to end, too. A client that has only gone leaves it running.
var ErrUnwanted = errors.New("the client cancelled the call")

// How long it is tried to end an unwanted execution, which may not be on record yet.
const (
	unwantedPatience = 30 * time.Second
	unwantedLook     = 100 * time.Millisecond
	unwantedLooks    = 20
)

// endUnwanted interrupts the execution that a request id started, if the call that ctx belongs to was cancelled.
func (t *toolset) endUnwanted(ctx context.Context, requestID string) {
	if !errors.Is(context.Cause(ctx), ErrUnwanted) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unwantedPatience)
	defer cancel()
	for range unwantedLooks {
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
		time.Sleep(unwantedLook) // the request may still be on its way to the record
	}
}
