package manager

import (
	"context"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// listTimeout is how long the engine may take to list its containers.
const listTimeout = 10 * time.Second

// inspection is the latest list of containers. mu guards the other fields, and is held while the engine makes
// the list.
type inspection struct {
	mu         sync.Mutex
	began      time.Time
	containers map[sandbox.ID]engine.Container
	err        error
}

// inspect returns the engine's containers. If another caller has sent a request to the engine after this call began,
// inspect returns the result of that request instead of sending its own. So the list is never older than the call.
// Callers must not change the map, because they share it.
func (m *Manager) inspect(ctx context.Context) (map[sandbox.ID]engine.Container, error) {
	asked := time.Now()
	in := &m.inspection
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.began.After(asked) {
		return in.containers, in.err
	}
	in.began = time.Now()
	list, cancel := context.WithTimeout(m.ctx, listTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	all, err := m.engine.List(list)
	in.containers, in.err = nil, nil
	if err != nil {
		if ctx.Err() != nil {
			in.began = time.Time{} // the request failed because this caller's ctx ended, so the next caller sends its own
			return nil, ctx.Err()
		}
		if opener, ok := m.engine.(engine.Opener); ok && opener.Open(list) != nil {
			in.err = err // the engine could not be opened, and the error contains the reason and the remedy
			return nil, err
		}
		in.err = sandbox.Errorf(sandbox.Unavailable, "the %s engine does not answer; the sandboxes may still exist: try again", m.engine.Info().Name).WithCause(err)
		return nil, in.err
	}
	in.containers = make(map[sandbox.ID]engine.Container, len(all))
	for _, c := range all {
		in.containers[c.ID] = c
	}
	return in.containers, nil
}

// optional returns the engine's implementation of the interface T, or nil if it has none. If the engine is not
// open yet, the interfaces that it implements are unknown, so optional lists its containers, which opens it. It
// returns an error if that fails.
func optional[T any](ctx context.Context, m *Manager) (can T, err error) {
	can, ok := engine.As[T](m.engine)
	if !ok {
		if _, err = m.inspect(ctx); err == nil {
			can, _ = engine.As[T](m.engine)
		}
	}
	return can, err
}
