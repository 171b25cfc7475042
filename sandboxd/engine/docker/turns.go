package docker

import (
	"context"
	"sync"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// turns lets one call at a time change a sandbox. Several calls may dial it at once, but none while it is suspended
// or resumed.
type turns struct {
	mu   sync.Mutex
	held map[sandbox.ID]*turn
}

// turn is the state of one sandbox in [turns]. It exists while a call uses it.
type turn struct {
	change chan struct{} // one place, for the call that changes the sandbox
	dials  chan struct{} // maxDials places, one for each dial; toBeAlone takes all
	users  int           // calls that hold a place or wait for one; guarded by turns.mu
}

// maxDials is the number of calls that may dial one sandbox at once.
const maxDials = 16

// toChange waits for the turn to change the sandbox, which lasts until done is called. Other calls can still dial the
// sandbox.
func (l *turns) toChange(ctx context.Context, id sandbox.ID) (done func(), err error) {
	t, leave := l.join(id)
	if err := take(ctx, t.change, 1); err != nil {
		leave()
		return nil, err
	}
	return func() { give(t.change, 1); leave() }, nil
}

// toDial waits until the sandbox can be dialled. It can't be suspended or resumed until done is called.
func (l *turns) toDial(ctx context.Context, id sandbox.ID) (done func(), err error) {
	t, leave := l.join(id)
	if err := take(ctx, t.dials, 1); err != nil {
		leave()
		return nil, err
	}
	return func() { give(t.dials, 1); leave() }, nil
}

// toBeAlone waits until no call dials the sandbox, and keeps others from dialling it until done is called. The caller
// must hold the turn to change the sandbox.
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

// take acquires n places. If ctx ends first, it acquires none and returns the error.
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
