package server

import (
	"context"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools"
)

// Waits are the sandboxes as tools see them in the daemon's own process: waits for the end
// of an execution end when the process does.
type Waits struct {
	tools.Sandboxes

	stopping context.Context
	stop     context.CancelFunc
}

// NewWaits returns sandboxes whose waits Drain ends.
func NewWaits(s tools.Sandboxes) *Waits {
	w := &Waits{Sandboxes: s}
	w.stopping, w.stop = context.WithCancel(context.Background())
	return w
}

// Drain ends all waits, now and later. What runs goes on.
func (w *Waits) Drain() { w.stop() }

// errServerStopping is what a wait is told that had begun with an execution's id.
var errServerStopping = sandbox.Errorf(sandbox.Unavailable,
	"the Dormouse server is stopping. Code that has begun goes on: ask for the execution again when the server runs")

// firstWait is how much of a wait is one request to the daemon. The rest is another one,
// which may end early: the first has told the execution's id by then.
const firstWait = 1.0 // seconds

// Execute starts an execution and waits. When the server stops it returns what it knows.
func (w *Waits) Execute(ctx context.Context, name string, r sandbox.ExecuteRequest) (sandbox.Execution, error) {
	begun, wait := time.Now(), r.WaitSeconds
	r.WaitSeconds = min(wait, firstWait)
	if w.stopping.Err() != nil {
		return sandbox.Execution{}, sandbox.Errorf(sandbox.Unavailable, "the Dormouse server is stopping, and the code was not run")
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
		return ex, nil // it has begun, and its id must not be lost
	}
	return later, err
}

// GetExecution waits for an execution's end.
func (w *Waits) GetExecution(ctx context.Context, id string, wait float64, window sandbox.Window) (sandbox.Execution, error) {
	if wait <= 0 {
		return w.Sandboxes.GetExecution(ctx, id, wait, window)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(w.stopping, cancel)()
	ex, err := w.Sandboxes.GetExecution(ctx, id, wait, window)
	if err != nil && w.stopping.Err() != nil {
		return ex, errServerStopping
	}
	return ex, err
}
