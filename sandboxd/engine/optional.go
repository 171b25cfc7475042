package engine

import (
	"context"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Opener is an engine that is opened when it is first needed. Open opens it; the error says why that failed.
type Opener interface {
	Open(ctx context.Context) error
}

// Suspender is an engine that can put a sandbox's memory on disk. Its methods may be
// called concurrently, and are safe to repeat.
type Suspender interface {
	// Suspend keeps the sandbox's state on disk, and then frees its memory. Open streams
	// end. What fails leaves it running; a suspended sandbox stays suspended.
	Suspend(ctx context.Context, id sandbox.ID) error
	// Resume returns when the guest can be dialled again, everything as it was. What fails
	// leaves it suspended; a running sandbox stays running. An error of kind expired says
	// that what was kept can never be resumed, and why.
	Resume(ctx context.Context, id sandbox.ID) error
}

// Checkpointer is a [Suspender] that can keep the state of a sandbox that runs on. If its processes die, it is
// listed as suspended, AsOf the checkpoint, and Resume brings it back as it was then. What a sandbox was resumed from is
// such a checkpoint too.
type Checkpointer interface {
	Suspender
	// Checkpoint keeps the sandbox's state on disk as it is now, in place of an older one, and lets it
	// run on. Open streams end. What fails leaves the older one. Discard drops what is kept of one that runs;
	// of one that has died it is all that there is, and stays.
	Checkpoint(ctx context.Context, id sandbox.ID) error
	Discard(ctx context.Context, id sandbox.ID) error
}

// Forker is an engine that can copy a sandbox.
type Forker interface {
	// Fork makes the sandbox to with the memory and files of from, which may run or be
	// suspended, and goes on as it was. The copy has the original's image, limits and uid, and its
	// guest still has the original's expiry: the caller sets it.
	Fork(ctx context.Context, from, to sandbox.ID) error
}

// Snapshotter is an engine that can start a sandbox from a snapshot: the memory and files of one that was made for
// that, and that nobody has used.
type Snapshotter interface {
	// Start is Create from the snapshot of a sandbox of the same image, limits, user and language. It reports false,
	// and has made nothing, if there is none. The guest still has the other's expiry: the caller sets it.
	Start(ctx context.Context, spec Spec) (bool, error)
	// Snapshot sees to it that Start finds a snapshot for spec: if there is none, it makes a sandbox, which is not listed,
	// waits until ready returns, stores it, and removes it.
	Snapshot(ctx context.Context, spec Spec, ready func(context.Context) error) error
}

// As returns what e can do beyond [Engine], a [Suspender] say, if it can. An engine that stands for
// another has an Unwrap method, which returns that one, or nil while there is none.
func As[T any](e Engine) (T, bool) {
	for e != nil {
		if t, ok := e.(T); ok {
			return t, true
		}
		u, ok := e.(interface{ Unwrap() Engine })
		if !ok {
			break
		}
		e = u.Unwrap()
	}
	var none T
	return none, false
}
