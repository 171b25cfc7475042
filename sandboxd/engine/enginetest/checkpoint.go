package enginetest

import (
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// checkpoint tests [engine.Checkpointer], if the engine implements it.
func (s *suite) checkpoint(t *testing.T) {
	checkpointer, ok := engine.As[engine.Checkpointer](s.engine)
	if !ok {
		t.Skip("the engine can't checkpoint a running sandbox")
	}
	count := func(t *testing.T, b testSandbox, want string) {
		t.Helper()
		if got := b.mustRequest(t, "POST", "/count", nil); got != want {
			t.Errorf("counter = %q, want %q", got, want)
		}
	}
	end := func(t *testing.T, b testSandbox) engine.Container {
		t.Helper()
		_, _ = b.request(t.Context(), "POST", "/exit", nil)
		return s.awaitEnd(t)
	}
	t.Run("a sandbox whose processes died resumes from its checkpoint", func(t *testing.T) {
		b := s.create(t, s.spec())
		count(t, b, "1 ")
		var after, before time.Time
		for range 2 { // the second checkpoint replaces the first
			after = time.Now()
			if err := checkpointer.Checkpoint(t.Context(), b.id); err != nil {
				t.Fatalf("Checkpoint: %v", err)
			}
			disconnect(b.id)
			before = time.Now()
			t.Logf("checkpoint: %v", before.Sub(after))
			s.wantOnly(t, b.id)
		}
		count(t, b, "1 2 ")
		for range 2 { // a checkpoint can be restored repeatedly
			c := end(t, b)
			if !c.Suspended || c.AsOf.Before(after) || c.AsOf.After(before) || c.StateBytes == 0 || c.Detail == "" {
				t.Errorf("List() has %+v, want it suspended, with AsOf between %v and %v", c, after, before)
			}
			resume(t, checkpointer, b.id)
			s.wantOnly(t, b.id)
			count(t, b, "1 2 ")
		}
		// wantSuspended checks that AsOf is zero, because a suspend loses no state.
		suspend(t, checkpointer, b.id)
		s.wantSuspended(t, s.engine, b.id)
		resume(t, checkpointer, b.id)
		count(t, b, "1 2 3 ")
	})
	t.Run("Discard deletes the checkpoint of a running sandbox only", func(t *testing.T) {
		b := s.create(t, s.spec())
		count(t, b, "1 ")
		if err := checkpointer.Checkpoint(t.Context(), b.id); err != nil {
			t.Fatalf("Checkpoint: %v", err)
		}
		disconnect(b.id)
		if c := end(t, b); !c.Suspended {
			t.Errorf("List() has %+v, want it suspended", c)
		}
		if err := checkpointer.Discard(t.Context(), b.id); err != nil {
			t.Errorf("Discard: %v", err)
		}
		resume(t, checkpointer, b.id)
		count(t, b, "1 2 ")
		for range 2 {
			if err := checkpointer.Discard(t.Context(), b.id); err != nil {
				t.Errorf("Discard: %v", err)
			}
		}
		if c := end(t, b); c.Suspended || c.StateBytes != 0 {
			t.Errorf("List() has %+v, want it ended, without a checkpoint", c)
		}
	})
	t.Run("Checkpoint of a missing sandbox is not_found, Discard is no error", func(t *testing.T) {
		for _, id := range []sandbox.ID{sandbox.NewID(), "", "sbx_../../etc/passwd"} {
			wantKind(t, "Checkpoint("+string(id)+")", checkpointer.Checkpoint(t.Context(), id), sandbox.NotFound)
			if err := checkpointer.Discard(t.Context(), id); err != nil {
				t.Errorf("Discard(%q): %v", id, err)
			}
		}
	})
}
