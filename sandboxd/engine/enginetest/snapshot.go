package enginetest

import (
	"context"
	"errors"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// snapshot tests [engine.Snapshotter], if the engine implements it.
func (s *suite) snapshot(t *testing.T) {
	snapshotter, ok := engine.As[engine.Snapshotter](s.engine)
	if !ok {
		t.Skip("the engine can't start sandboxes from a snapshot")
	}
	baseSpec := s.spec()
	other := func() engine.Spec {
		spec := baseSpec
		spec.ID = sandbox.NewID()
		return spec
	}
	start := func(t *testing.T) testSandbox {
		t.Helper()
		spec := other()
		if started, err := snapshotter.Start(t.Context(), spec); !started || err != nil {
			t.Fatalf("Start = %v, %v, want true", started, err)
		}
		t.Cleanup(func() { remove(t, s.engine, spec.ID) })
		return s.dial(t, spec.ID)
	}
	wantNone := func(t *testing.T, spec engine.Spec) {
		t.Helper()
		if started, err := snapshotter.Start(t.Context(), spec); started || err != nil {
			t.Errorf("Start = %v, %v, want false", started, err)
		}
		s.wantEmpty(t, s.engine)
	}
	t.Run("Start without a snapshot starts nothing", func(t *testing.T) { wantNone(t, other()) })
	t.Run("Snapshot stores nothing if ready fails", func(t *testing.T) {
		never := errors.New("never")
		err := snapshotter.Snapshot(t.Context(), other(), func(context.Context) error { return never })
		if !errors.Is(err, never) {
			t.Errorf("Snapshot = %v, want %v", err, never)
		}
		wantNone(t, other())
	})
	t.Run("Snapshot uses a sandbox that List does not return", func(t *testing.T) {
		spec := other()
		err := snapshotter.Snapshot(t.Context(), spec, func(context.Context) error {
			s.wantEmpty(t, s.engine)
			s.dial(t, spec.ID).mustRequest(t, "POST", "/count", nil)
			return nil
		})
		if err != nil {
			t.Fatalf("Snapshot: %v", err)
		}
		s.wantEmpty(t, s.engine)
	})
	t.Run("Snapshot makes each snapshot once", func(t *testing.T) {
		err := snapshotter.Snapshot(t.Context(), other(), func(context.Context) error { return errors.New("the snapshot is made again") })
		if err != nil {
			t.Errorf("Snapshot = %v", err)
		}
	})
	t.Run("sandboxes from one snapshot are independent, with the usual isolation", func(t *testing.T) {
		wantPosture := s.create(t, s.spec()).mustRequest(t, "GET", "/posture/kernel", nil)
		for range 2 {
			b := start(t)
			for _, want := range []string{"1 2 ", "1 2 3 "} {
				if got := b.mustRequest(t, "POST", "/count", nil); got != want {
					t.Errorf("counter = %q, want %q", got, want)
				}
			}
			if got := b.mustRequest(t, "GET", "/posture/kernel", nil); got != wantPosture {
				t.Errorf("the isolation of a created sandbox is\n%s\nand of one from a snapshot\n%s", wantPosture, got)
			}
		}
	})
	t.Run("a sandbox from a snapshot can be suspended, resumed and forked", func(t *testing.T) {
		b := start(t)
		if suspender, ok := engine.As[engine.Suspender](s.engine); ok {
			suspend(t, suspender, b.id)
			resume(t, suspender, b.id)
		}
		if forker, ok := engine.As[engine.Forker](s.engine); ok {
			id := sandbox.NewID()
			if err := forker.Fork(t.Context(), b.id, id); err != nil {
				t.Fatalf("Fork: %v", err)
			}
			t.Cleanup(func() { remove(t, s.engine, id) })
			if got := s.dial(t, id).mustRequest(t, "POST", "/count", nil); got != "1 2 " {
				t.Errorf("the fork's counter = %q, want 1 2", got)
			}
		}
	})
	t.Run("a snapshot is not used for another language, size, user or image", func(t *testing.T) {
		for _, change := range []func(*engine.Spec){
			func(s *engine.Spec) { s.Language = sandbox.JavaScript },
			func(s *engine.Spec) { s.Limits.MemoryBytes *= 2 },
			func(s *engine.Spec) { s.Limits.CPUs = 2 },
			func(s *engine.Spec) { s.UID++ },
			func(s *engine.Spec) { s.Image = "there-is/no-such-image:1" },
		} {
			spec := other()
			change(&spec)
			wantNone(t, spec)
		}
	})
	t.Run("Start rejects an id that is in use", func(t *testing.T) {
		b := start(t)
		spec := baseSpec
		spec.ID = b.id
		if started, err := snapshotter.Start(t.Context(), spec); started || err == nil {
			t.Errorf("Start = %v, %v, want an error", started, err)
		}
		b.mustRequest(t, "POST", "/count", nil)
		start(t)
	})
}
