package server

import (
	"context"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools"
)

// Waits wraps the daemon's sandboxes for tools that run in the daemon's process. When the process stops, it ends the calls
// that wait for an execution.
type Waits struct {
	tools.Sandboxes

	stopping context.Context
	stop     context.CancelFunc
}

// NewWaits returns a wrapper around s whose method Drain ends the waits.
func NewWaits(s tools.Sandboxes) *Waits {
	w := &Waits{Sandboxes: s}
	w.stopping, w.stop = context.WithCancel(context.Background())
	return w
}

// Drain ends all current and future waits. Executions continue.
func (w *Waits) Drain() { w.stop() }

// firstWait is the part of an Execute's wait that is spent in the call that starts the execution. The rest of the wait is a
// separate GetExecution. Drain can end it early without losing the execution's id, which the first call has returned.
const firstWait = 1.0 // seconds

// Execute starts an execution and waits for its end. If Drain is called during the wait, it returns the execution in the
// last known state.
func (w *Waits) Execute(ctx context.Context, name string, r sandbox.ExecuteRequest) (sandbox.Execution, error) {
	begun, wait := time.Now(), r.WaitSeconds
	r.WaitSeconds = min(wait, firstWait)
	if w.stopping.Err() != nil {
		return sandbox.Execution{}, sandbox.Errorf(sandbox.Unavailable, "the Dormouse server is stopping, so the code was not run: try again in a moment")
	}
	ex, err := w.Sandboxes.Execute(ctx, name, r)
	if err != nil {
		return ex, err
	}
	left := wait - time.Since(begun).Seconds()
	if ex.State.Final() || left <= 0 {
		return ex, nil
	}
	later, err := w.GetExecution(ctx, string(ex.ID), left, r.Window)
	if err != nil && (w.stopping.Err() != nil || ctx.Err() == nil) {
		return ex, nil // the execution has begun, and the caller needs its id
	}
	return later, err
}

// GetExecution returns an execution after it has ended or wait seconds have passed. If Drain is called during the wait, it
// returns [sandbox.ErrStopping].
func (w *Waits) GetExecution(ctx context.Context, id string, wait float64, window sandbox.Window) (sandbox.Execution, error) {
	if wait <= 0 {
		return w.Sandboxes.GetExecution(ctx, id, wait, window)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(w.stopping, cancel)()
	ex, err := w.Sandboxes.GetExecution(ctx, id, wait, window)
	if err != nil && w.stopping.Err() != nil {
		return ex, sandbox.ErrStopping
	}
	return ex, err
}
