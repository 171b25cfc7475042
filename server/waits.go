package server

import (
	"context"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools"
)

// Waits are the sandboxes as tools see them in the daemon's own process: waits for the end
// of an execution end when the process does, and executions are counted.
type Waits struct {
	tools.Sandboxes
	metrics *Metrics

	stopping context.Context
	stop     context.CancelFunc

	mu       sync.Mutex
	stopped  bool
	watching sync.WaitGroup // nothing is added when stopped
}

// NewWaits returns sandboxes whose waits Drain ends. metrics may be nil.
func NewWaits(s tools.Sandboxes, m *Metrics) *Waits {
	w := &Waits{Sandboxes: s, metrics: m}
	w.stopping, w.stop = context.WithCancel(context.Background())
	return w
}

// Drain ends all waits, now and later. What runs goes on. It returns when nothing here
// uses the sandboxes by itself any more.
func (w *Waits) Drain() {
	w.mu.Lock()
	w.stopped = true
	w.mu.Unlock()
	w.stop()
	w.watching.Wait()
}

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
	if !ex.CreateTime.Before(begun.Add(-time.Millisecond)) { // else it is an earlier call's, found by its request id
		w.count(ex)
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

// count counts an execution now, and its end when it comes.
func (w *Waits) count(ex sandbox.Execution) {
	if w.metrics == nil {
		return
	}
	w.metrics.executionStarted()
	if ex.State.Final() {
		w.metrics.executionEnded(ex.State)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return
	}
	id := string(ex.ID)
	w.watching.Go(func() {
		for w.stopping.Err() == nil {
			ex, err := w.GetExecution(w.stopping, id, sandbox.MaxWaitSeconds, sandbox.NoOutput)
			switch kind := sandbox.KindOf(err); {
			case err == nil && ex.State.Final():
				w.metrics.executionEnded(ex.State)
				return
			case err != nil && (kind == sandbox.NotFound || kind == sandbox.Expired):
				return // its record is gone, and nobody knows how it ended
			case err != nil:
				select {
				case <-time.After(5 * time.Second):
				case <-w.stopping.Done():
				}
			}
		}
	})
}
