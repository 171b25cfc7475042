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
			t.Fatalf("Start = %v, %v", started, err)
		}
		t.Cleanup(func() { remove(t, s.engine, spec.ID) })
		return s.dial(t, spec.ID)
	}
	wantNone := func(t *testing.T, spec engine.Spec) {
		t.Helper()
		if started, err := snapshotter.Start(t.Context(), spec); started || err != nil {
			t.Errorf("Start = %v, %v, want none", started, err)
		}
		s.wantEmpty(t, s.engine)
	}
	t.Run("without one nothing starts", func(t *testing.T) { wantNone(t, other()) })
	t.Run("one that does not get ready is none, and leaves nothing", func(t *testing.T) {
		never := errors.New("never")
		err := snapshotter.Snapshot(t.Context(), other(), func(context.Context) error { return never })
		if !errors.Is(err, never) {
			t.Errorf("Snapshot = %v, want %v", err, never)
		}
		wantNone(t, other())
	})
	t.Run("it is made of a sandbox that nobody sees", func(t *testing.T) {
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
	t.Run("it is made once", func(t *testing.T) {
		err := snapshotter.Snapshot(t.Context(), other(), func(context.Context) error { return errors.New("it is made again") })
		if err != nil {
			t.Errorf("Snapshot = %v", err)
		}
	})
	t.Run("each sandbox that starts from it goes on by itself, within the same walls", func(t *testing.T) {
		wantPosture := s.create(t, s.spec()).mustRequest(t, "GET", "/posture/kernel", nil)
		for range 2 {
			b := start(t)
			for _, want := range []string{"1 2 ", "1 2 3 "} {
				if got := b.mustRequest(t, "POST", "/count", nil); got != want {
					t.Errorf("it counted %q, want %q", got, want)
				}
			}
			if got := b.mustRequest(t, "GET", "/posture/kernel", nil); got != wantPosture {
				t.Errorf("the walls of one that was created are\n%s\nand of one that was started\n%s", wantPosture, got)
			}
		}
	})
	t.Run("and sleeps, wakes and is copied like others", func(t *testing.T) {
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
				t.Errorf("the copy counted %q, want 1 2", got)
			}
		}
	})
	t.Run("it is none for who wants another language, size or user", func(t *testing.T) {
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
	t.Run("an id that is taken is an error", func(t *testing.T) {
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
