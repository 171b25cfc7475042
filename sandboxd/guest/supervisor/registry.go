//go:build linux

package supervisor

import (
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/supervisor/journal"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// registry stores the newest maxStoredExecutions executions, and their output as far as it fits into budget. The oldest
// output is deleted first.
type registry struct {
	dir    string        // folder of the journals' files
	budget int64         // limit of all output together in bytes
	kept   atomic.Int64  // bytes of all stored output
	over   chan struct{} // signals that trim should run

	mu    sync.Mutex
	byID  map[sandbox.ExecutionID]*execution
	order []*execution // oldest first
}

const (
	maxStoredExecutions = 1000
	maxOutputBudget     = 96 * sandbox.MiB
)

// newRegistry returns an empty registry. The budget is a quarter of memory, which is the sandbox's memory limit in
// bytes, but at least 16 MiB and at most maxOutputBudget.
func newRegistry(dir string, memory int64) *registry {
	r := &registry{
		dir:    dir,
		budget: min(maxOutputBudget, max(memory/4, 16*sandbox.MiB)),
		over:   make(chan struct{}, 1),
		byID:   map[sandbox.ExecutionID]*execution{},
	}
	go func() {
		for range r.over {
			r.trim()
		}
	}()
	return r
}

// accept returns the execution with this id. If there is none, accept creates an execution and passes it to enqueue. If
// enqueue rejects the execution, accept does not store it and returns the error of enqueue.
func (r *registry) accept(id sandbox.ExecutionID, req sandbox.ExecuteRequest, enqueue func(*execution) error) (*execution, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.byID[id]; e != nil {
		return e, nil
	}
	e := newExecution(id, req, journal.New(filepath.Join(r.dir, string(id)), r.countOutput))
	if err := enqueue(e); err != nil {
		return nil, err
	}
	r.byID[id] = e
	r.order = append(r.order, e)
	r.removeOldest()
	return e, nil
}

// removeOldest removes the oldest final executions beyond maxStoredExecutions. The caller must hold r.mu.
func (r *registry) removeOldest() {
	for i := 0; len(r.order) > maxStoredExecutions && i < len(r.order); {
		e := r.order[i]
		if !e.final() {
			i++
			continue
		}
		r.kept.Add(-e.journal.DeleteOutput())
		delete(r.byID, e.id)
		r.order = append(r.order[:i], r.order[i+1:]...)
	}
}

func (r *registry) get(id sandbox.ExecutionID) (*execution, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.byID[id]; e != nil {
		return e, nil
	}
	return nil, sandbox.Errorf(sandbox.NotFound, "there is no execution %q; a sandbox stores its last %d executions", id, maxStoredExecutions)
}

// active returns the queued and running executions, oldest first.
func (r *registry) active() []sandbox.Execution {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := []sandbox.Execution{}
	for _, e := range r.order {
		if !e.final() {
			list = append(list, e.current())
		}
	}
	return list
}

// countOutput counts n more bytes of output. Journals call it while they hold their own locks, so trim runs in another
// goroutine.
func (r *registry) countOutput(n int64) {
	if r.kept.Add(n) > r.budget {
		select {
		case r.over <- struct{}{}:
		default:
		}
	}
}

// trim deletes the output of the oldest final executions until the remaining output fits into the budget.
func (r *registry) trim() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.order {
		if r.kept.Load() <= r.budget {
			return
		}
		if e.final() {
			r.kept.Add(-e.journal.DeleteOutput())
		}
	}
}
