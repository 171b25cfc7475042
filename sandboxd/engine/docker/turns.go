package docker

import (
	"context"
	"sync"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// turns lets one call at a time change a sandbox. Many may dial it at once, and none while it
// is suspended or resumed.
type turns struct {
	mu   sync.Mutex
	held map[sandbox.ID]*turn
}

type turn struct {
	change chan struct{}
	dials  chan struct{}
	users  int
}

// maxDials is how many may dial one sandbox at once.
const maxDials = 16

// toChange waits for the sandbox's turn; who dials it meanwhile can still do so.
func (l *turns) toChange(ctx context.Context, id sandbox.ID) (done func(), err error) {
	t, leave := l.join(id)
	if err := take(ctx, t.change, 1); err != nil {
		leave()
		return nil, err
	}
	return func() { give(t.change, 1); leave() }, nil
}

// toDial waits until the sandbox can be dialled.
func (l *turns) toDial(ctx context.Context, id sandbox.ID) (done func(), err error) {
	t, leave := l.join(id)
	if err := take(ctx, t.dials, 1); err != nil {
		leave()
		return nil, err
	}
	return func() { give(t.dials, 1); leave() }, nil
}

// toBeAlone waits, for who has its turn to change the sandbox, until nobody dials it.
func (l *turns) toBeAlone(ctx context.Context, id sandbox.ID) (done func(), err error) {
	t, leave := l.join(id)
	if err := take(ctx, t.dials, maxDials); err != nil {
		leave()
		return nil, err
	}
	return func() { give(t.dials, maxDials); leave() }, nil
}

func (l *turns) join(id sandbox.ID) (t *turn, leave func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil {
		l.held = map[sandbox.ID]*turn{}
	}
	t = l.held[id]
	if t == nil {
		t = &turn{change: make(chan struct{}, 1), dials: make(chan struct{}, maxDials)}
		l.held[id] = t
	}
	t.users++
	return t, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if t.users--; t.users == 0 {
			delete(l.held, id)
		}
	}
}

// take takes n places, or none.
func take(ctx context.Context, places chan struct{}, n int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for taken := range n {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			give(places, taken)
			return ctx.Err()
		}
	}
	return nil
}

func give(places chan struct{}, n int) {
	for range n {
		<-places
	}
}
