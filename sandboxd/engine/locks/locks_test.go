package locks

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

type acquire func(context.Context, sandbox.ID) (func(), error)

// acquired starts a call of fn and reports whether it has returned once all goroutines of the bubble are blocked. release
// waits for the call to return, and releases the lock.
func acquired(t *testing.T, fn acquire, id sandbox.ID) (done bool, release func()) {
	t.Helper()
	result := make(chan func(), 1)
	go func() {
		release, err := fn(t.Context(), id)
		if err != nil {
			t.Errorf("acquire the lock: %v", err)
		}
		result <- release
	}()
	synctest.Wait()
	return len(result) == 1, func() { (<-result)(); synctest.Wait() }
}

// TestExclusiveExcludesAll checks that an exclusive holder excludes every other holder of the same sandbox's lock, but
// no holder of another sandbox's lock.
func TestExclusiveExcludesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Locks
		_, first := acquired(t, l.Acquire, "a")
		if done, release := acquired(t, l.Acquire, "b"); !done {
			t.Error("the lock of another sandbox could not be acquired")
		} else {
			release()
		}
		waiting, second := acquired(t, l.Acquire, "a")
		alsoWaiting, shared := acquired(t, l.AcquireShared, "a")
		if waiting || alsoWaiting {
			t.Errorf("while the lock was held exclusively it was acquired: exclusively %v, shared %v; want neither", waiting, alsoWaiting)
		}
		first()
		shared() // unlike the second exclusive call, it already waits for a place in lock.shared, so it acquires the lock first
		second()
		if len(l.byID) != 0 {
			t.Errorf("%d locks are left after all were released, want 0", len(l.byID))
		}
	})
}

// TestSharedExcludesExclusive checks that several calls can hold a lock shared, up to the limit, and that an exclusive
// holder waits for all of them.
func TestSharedExcludesExclusive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Locks
		var releases []func()
		for i := range maxShared {
			done, release := acquired(t, l.AcquireShared, "a")
			if !done {
				t.Errorf("shared holder %d of %d had to wait", i+1, maxShared)
			}
			releases = append(releases, release)
		}
		exclusive, releaseExclusive := acquired(t, l.Acquire, "a")
		other, releaseOther := acquired(t, l.Acquire, "a") // two exclusive callers must not block each other for ever
		if exclusive || other {
			t.Error("the lock was acquired exclusively while it was held shared")
		}
		for _, release := range releases {
			release()
		}
		releaseExclusive()
		releaseOther()
	})
}

// TestCancelledAcquireReleasesItsPlaces checks that a call of Acquire whose context ends first holds no places
// afterwards.
func TestCancelledAcquireReleasesItsPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Locks
		_, shared := acquired(t, l.AcquireShared, "a")
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		go func() {
			_, err := l.Acquire(ctx, "a") // acquires all places but one, and waits for the last
			failed <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Errorf("Acquire = %v, want context.Canceled", err)
		}
		if done, release := acquired(t, l.AcquireShared, "a"); !done {
			t.Error("a cancelled Acquire still holds places")
		} else {
			release()
		}
		if _, err := l.AcquireShared(ctx, "a"); !errors.Is(err, context.Canceled) {
			t.Errorf("AcquireShared with a cancelled context = %v, want context.Canceled", err)
		}
		shared()
		if len(l.byID) != 0 {
			t.Errorf("%d locks are left after all were released, want 0", len(l.byID))
		}
	})
}
