package docker

import (
	"context"
	"sync"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// sandboxLocks has a lock for each sandbox. One call at a time may change a sandbox. Several calls may dial a sandbox
// at once, but none while the sandbox is being suspended, resumed or forked.
type sandboxLocks struct {
	mu   sync.Mutex
	held map[sandbox.ID]*sandboxLock
}

// sandboxLock is the lock of one sandbox in [sandboxLocks]. It is deleted when no call holds it or waits for it.
type sandboxLock struct {
	change chan struct{} // has one place, which the call that changes the sandbox takes
	dials  chan struct{} // has maxDials places; each dial takes one, and acquireAllDials takes all
	users  int           // number of calls that hold a place or wait for a place; guarded by sandboxLocks.mu
}

// maxDials is the number of calls that may dial one sandbox at once.
const maxDials = 16

// acquireChange waits until no other call changes the sandbox, and keeps other calls from changing it until done is
// called. Other calls can still dial the sandbox.
func (l *sandboxLocks) acquireChange(ctx context.Context, id sandbox.ID) (done func(), err error) {
	t, leave := l.join(id)
	if err := acquirePlaces(ctx, t.change, 1); err != nil {
		leave()
		return nil, err
	}
	return func() { releasePlaces(t.change, 1); leave() }, nil
}

// acquireDial waits while another call suspends, resumes or forks the sandbox, and while maxDials other calls dial it.
// The sandbox can't be suspended, resumed or forked until done is called.
func (l *sandboxLocks) acquireDial(ctx context.Context, id sandbox.ID) (done func(), err error) {
	t, leave := l.join(id)
	if err := acquirePlaces(ctx, t.dials, 1); err != nil {
		leave()
		return nil, err
	}
	return func() { releasePlaces(t.dials, 1); leave() }, nil
}

// acquireAllDials waits until no call dials the sandbox, and keeps other calls from dialling it until done is called.
// The caller must hold the sandbox's change lock.
func (l *sandboxLocks) acquireAllDials(ctx context.Context, id sandbox.ID) (done func(), err error) {
	t, leave := l.join(id)
	if err := acquirePlaces(ctx, t.dials, maxDials); err != nil {
		leave()
		return nil, err
	}
	return func() { releasePlaces(t.dials, maxDials); leave() }, nil
}

// join returns the lock of a sandbox, and creates it if necessary. The caller must call leave when it no longer uses
// the lock.
func (l *sandboxLocks) join(id sandbox.ID) (t *sandboxLock, leave func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil {
		l.held = map[sandbox.ID]*sandboxLock{}
	}
	t = l.held[id]
	if t == nil {
		t = &sandboxLock{change: make(chan struct{}, 1), dials: make(chan struct{}, maxDials)}
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

// acquirePlaces acquires n places. If ctx ends first, it acquires none and returns the error.
func acquirePlaces(ctx context.Context, places chan struct{}, n int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for taken := range n {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			releasePlaces(places, taken)
			return ctx.Err()
		}
	}
	return nil
}

func releasePlaces(places chan struct{}, n int) {
	for range n {
		<-places
	}
}
