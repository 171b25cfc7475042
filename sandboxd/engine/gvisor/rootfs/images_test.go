package rootfs

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

// TestCloseWaitsForWorkThatCannotBeCancelled checks that Close returns only after work in the background has ended, even if
// the caller that started the work does not wait for it any more.
func TestCloseWaitsForWorkThatCannotBeCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := Open(t.TempDir())
		ctx, cancel := context.WithCancel(t.Context())
		finish := make(chan struct{})
		waited := make(chan error, 1)
		go func() { waited <- i.waitFor(ctx, func() error { <-finish; return nil }) }()
		synctest.Wait()
		cancel()
		if err := <-waited; !errors.Is(err, context.Canceled) {
			t.Errorf("waitFor() = %v after its context was cancelled, want %v", err, context.Canceled)
		}
		closed := false
		go func() { i.Close(); closed = true }()
		synctest.Wait()
		if closed {
			t.Error("Close returned while work was in progress")
		}
		close(finish)
		synctest.Wait()
		if !closed {
			t.Error("Close did not return after the work ended")
		}
	})
}
