package manager

import (
	"context"
	"sync"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// background runs the goroutines of a manager.
type background struct {
	ctx    context.Context // cancelled by stop; for work that is not part of a request
	cancel context.CancelFunc

	mu         sync.Mutex
	stopped    bool // stop was called, so spawn must not start goroutines
	goroutines sync.WaitGroup
}

func newBackground() *background {
	b := &background{}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	return b
}

// spawn runs fn in a goroutine that [Manager.Close] waits for. It returns false, and does not run fn, after stop was
// called.
func (b *background) spawn(fn func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		return false
	}
	b.goroutines.Go(fn)
	return true
}

// finish runs fn in the background and returns its error. If ctx ends first, finish returns ctx.Err() and fn
// continues. The context of fn is cancelled only by stop. After stop was called, finish returns sandbox.ErrStopping
// and does not run fn.
func (b *background) finish(ctx context.Context, fn func(context.Context) error) error {
	done := make(chan error, 1)
	if !b.spawn(func() { done <- fn(b.ctx) }) {
		return sandbox.ErrStopping
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stop cancels the context of all goroutines. After stop, spawn returns false.
func (b *background) stop() {
	b.mu.Lock()
	b.stopped = true
	b.mu.Unlock()
	b.cancel()
}

// each calls do for each item, up to atOnce of them concurrently, and returns when all calls have ended.
func each[T any](items []T, do func(T)) {
	var calls sync.WaitGroup
	defer calls.Wait()
	slots := make(chan struct{}, atOnce)
	for _, item := range items {
		slots <- struct{}{}
		calls.Go(func() {
			defer func() { <-slots }()
			do(item)
		})
	}
}
