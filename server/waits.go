package server

import (
	"context"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools"
)

// Waits wraps the daemon's sandboxes for tools that run in the daemon's process. When the process stops, its method Drain
// ends the calls of GetExecution that wait for an execution.
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

// Drain ends all current and future waits of GetExecution. Executions continue.
func (w *Waits) Drain() { w.stop() }

// Execute starts an execution, unless Drain was called. Drain does not end the wait of Execute, because the caller would get
// an error and not the execution's id. That wait is short: package tools lets Execute wait for at most a second, and waits
// for the rest of the time in GetExecution.
func (w *Waits) Execute(ctx context.Context, name string, r sandbox.ExecuteRequest) (sandbox.Execution, error) {
	if w.stopping.Err() != nil {
		return sandbox.Execution{}, sandbox.Errorf(sandbox.Unavailable, "the Dormouse server is stopping, so the code was not run: try again in a moment")
	}
	return w.Sandboxes.Execute(ctx, name, r)
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
