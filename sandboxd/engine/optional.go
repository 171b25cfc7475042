package engine

import (
	"context"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Opener is an engine that is opened when it is first needed. Open opens it, and returns an error if that fails.
type Opener interface {
	Open(ctx context.Context) error
}

// Suspender is an engine that can suspend a sandbox: to disk, or paused (see [Info]). It is safe for concurrent use.
type Suspender interface {
	// Suspend saves the sandbox's state on disk and then frees its memory, or freezes the sandbox, depending on the
	// engine. It closes open streams. If Suspend fails, the sandbox continues to run. If the sandbox is suspended
	// already, Suspend returns no error and leaves the sandbox suspended.
	Suspend(ctx context.Context, id sandbox.ID) error
	// Resume resumes a sandbox with all its state, and returns when the guest can be dialled again. If Resume fails, the
	// sandbox stays suspended. If the sandbox is running already, Resume returns no error and leaves the sandbox
	// running. An error of kind expired means that the saved state can never be resumed, and contains the reason.
	Resume(ctx context.Context, id sandbox.ID) error
}

// Checkpointer is a [Suspender] that can save the state of a sandbox which continues to run. If the sandbox's
// processes die, List reports it as suspended, with the time of the checkpoint in AsOf, and Resume restores the
// checkpoint. Resume keeps the checkpoint, in case the processes die again.
type Checkpointer interface {
	Suspender
	// Checkpoint saves the sandbox's current state on disk, in place of an older checkpoint. The sandbox continues to
	// run, and its open streams are closed. If Checkpoint fails, the older checkpoint is kept.
	Checkpoint(ctx context.Context, id sandbox.ID) error
	// Discard deletes the checkpoint of a running sandbox, so that the sandbox can't be restored if its processes die.
	// Discard keeps the checkpoint of a sandbox whose processes have died, because nothing else is left of the sandbox.
	// It is no error if there is no checkpoint.
	Discard(ctx context.Context, id sandbox.ID) error
}

// Forker is an engine that can fork a sandbox.
type Forker interface {
	// Fork creates a sandbox with the memory and files of another. The parameter from is the id of the original, and to
	// is the id of the fork. The original may be running or suspended, and stays so. The fork has the original's image,
	// limits and uid. The fork's guest still has the original's expiry, so the caller must set the expiry.
	Fork(ctx context.Context, from, to sandbox.ID) error
}

// Snapshotter is an engine that can start a sandbox from a snapshot: the saved memory and files of a sandbox that was
// created only for this purpose and never used.
type Snapshotter interface {
	// Start is like Create, but starts the sandbox from the snapshot for the same image, limits, user and language.
	// If there is no such snapshot, Start returns false and creates nothing. The guest still has the expiry of the
	// sandbox that the snapshot was made from, so the caller must set the expiry.
	Start(ctx context.Context, spec Spec) (bool, error)
	// Snapshot makes sure that Start finds a snapshot for spec. If there is a snapshot already, Snapshot does nothing.
	// Otherwise it creates a sandbox, which List does not return, calls ready, stores a snapshot of the sandbox when
	// ready has returned, and removes the sandbox. If ready returns an error, Snapshot stores no snapshot and returns
	// the error.
	Snapshot(ctx context.Context, spec Spec, ready func(context.Context) error) error
}

// As returns e as a T, such as a [Suspender], and reports whether e is a T. If e is not a T but wraps an engine, As
// tries the wrapped engine instead, and so on. An engine that wraps an engine has the method Unwrap, which returns the
// wrapped engine, or nil as long as there is none.
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
