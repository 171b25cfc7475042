// Package locks provides one lock for each sandbox, so that the calls of an engine that work on the same sandbox do
// not disturb each other. Packages docker and gvisor use it. [Locks] is its only type.
package locks

import (
	"context"
	"sync"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Locks has a lock for each sandbox. A lock is held by one exclusive holder, or by up to maxShared shared holders. The
// zero value is ready for use. Locks is safe for concurrent use.
type Locks struct {
	mu   sync.Mutex
	byID map[sandbox.ID]*lock
}

// lock is the lock of one sandbox. It is deleted when no call holds it or waits for it.
type lock struct {
	exclusive chan struct{} // has one place, for the call that holds all places of shared or waits for them
	shared    chan struct{} // has maxShared places; a shared holder has one of them, an exclusive holder all
	users     int           // the number of calls that hold the lock or wait for it; guarded by Locks.mu
}

// maxShared is the number of calls that can hold one lock shared at the same time.
const maxShared = 16

// Acquire waits until no other call holds the sandbox's lock, and acquires it. It returns the error of ctx if ctx ends
// first. The caller must call release once.
func (l *Locks) Acquire(ctx context.Context, id sandbox.ID) (release func(), err error) {
	k, leave := l.join(id)
	if err := acquirePlaces(ctx, k.exclusive, 1); err != nil {
		leave()
		return nil, err
	}
	if err := acquirePlaces(ctx, k.shared, maxShared); err != nil {
		releasePlaces(k.exclusive, 1)
		leave()
		return nil, err
	}
	return func() { releasePlaces(k.shared, maxShared); releasePlaces(k.exclusive, 1); leave() }, nil
}

// AcquireShared waits until no call holds the sandbox's lock exclusively and fewer than maxShared calls hold it shared,
// and acquires it. It returns the error of ctx if ctx ends first. The caller must call release once.
func (l *Locks) AcquireShared(ctx context.Context, id sandbox.ID) (release func(), err error) {
	k, leave := l.join(id)
	if err := acquirePlaces(ctx, k.shared, 1); err != nil {
		leave()
		return nil, err
	}
	return func() { releasePlaces(k.shared, 1); leave() }, nil
}

// join returns the lock of a sandbox, and creates it if necessary. The caller must call leave when it no longer uses
// the lock.
func (l *Locks) join(id sandbox.ID) (k *lock, leave func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byID == nil {
		l.byID = map[sandbox.ID]*lock{}
	}
	k = l.byID[id]
	if k == nil {
		k = &lock{exclusive: make(chan struct{}, 1), shared: make(chan struct{}, maxShared)}
		l.byID[id] = k
	}
	k.users++
	return k, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if k.users--; k.users == 0 {
			delete(l.byID, id)
		}
	}
}

// acquirePlaces acquires n places. If ctx ends first, it acquires none and returns the error of ctx.
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
