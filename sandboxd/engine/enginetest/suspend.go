package enginetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// suspend tests [engine.Suspender], if the engine implements it.
func (s *suite) suspend(t *testing.T) {
	suspender, ok := engine.As[engine.Suspender](s.engine)
	if !ok {
		t.Skip("the engine can't suspend sandboxes")
	}
	t.Run("memory, open files and isolation survive, repeatedly", func(t *testing.T) {
		b := s.create(t, s.spec())
		block := make([]byte, 10<<20)
		rand.Read(block)
		b.mustRequest(t, "PUT", "/blob", bytes.NewReader(block))
		wantPosture := b.mustRequest(t, "GET", "/posture/kernel", nil)
		for _, want := range []string{"1 ", "1 2 ", "1 2 3 "} {
			if got := b.mustRequest(t, "POST", "/count", nil); got != want {
				t.Fatalf("counter = %q, want %q", got, want)
			}
			start := time.Now()
			suspend(t, suspender, b.id)
			suspendTime := time.Since(start)
			s.wantSuspended(t, s.engine, b.id)
			start = time.Now()
			resume(t, suspender, b.id)
			t.Logf("suspended in %v, resumed in %v", suspendTime, time.Since(start))
			s.wantOnly(t, b.id)
		}
		if b.mustRequest(t, "GET", "/blob", nil) != string(block) {
			t.Error("a file of 10 MB has changed")
		}
		if got := b.mustRequest(t, "GET", "/posture/kernel", nil); got != wantPosture {
			t.Errorf("the isolation was\n%s\nand is now\n%s", wantPosture, got)
		}
	})
	t.Run("repeated calls of Suspend and Resume change nothing", func(t *testing.T) {
		b := s.create(t, s.spec())
		b.mustRequest(t, "POST", "/count", nil)
		resume(t, suspender, b.id)
		suspend(t, suspender, b.id)
		suspend(t, suspender, b.id)
		s.wantSuspended(t, s.engine, b.id)
		resume(t, suspender, b.id)
		resume(t, suspender, b.id)
		if got := b.mustRequest(t, "POST", "/count", nil); got != "1 2 " {
			t.Errorf("counter = %q, want 1 2", got)
		}
	})
	t.Run("concurrent calls of Suspend and of Resume succeed", func(t *testing.T) {
		b := s.create(t, s.spec())
		b.mustRequest(t, "POST", "/count", nil)
		var group sync.WaitGroup
		for _, step := range []func(*testing.T, engine.Suspender, sandbox.ID){suspend, resume, suspend, resume} {
			for range 3 {
				group.Go(func() { step(t, suspender, b.id) })
			}
			group.Wait()
		}
		if got := b.mustRequest(t, "POST", "/count", nil); got != "1 2 " {
			t.Errorf("counter = %q, want 1 2", got)
		}
	})
	t.Run("several sandboxes can be suspended and resumed at once", func(t *testing.T) {
		var group sync.WaitGroup
		for range 3 {
			b := s.create(t, s.spec())
			b.mustRequest(t, "POST", "/count", nil)
			group.Go(func() {
				suspend(t, suspender, b.id)
				resume(t, suspender, b.id)
				if got, err := b.request(t.Context(), "POST", "/count", nil); got != "1 2 " || err != nil {
					t.Errorf("counter = %q, %v, want 1 2", got, err)
				}
			})
		}
		group.Wait()
	})
	t.Run("Dial of a suspended sandbox is busy", func(t *testing.T) {
		b := s.create(t, s.spec())
		suspend(t, suspender, b.id)
		start := time.Now()
		_, err := s.engine.Dial(t.Context(), b.id)
		wantKind(t, "Dial", err, sandbox.Busy)
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("Dial took %v, want at most 5s", took)
		}
	})
	t.Run("Dial during Suspend and Resume returns a stream or busy", func(t *testing.T) {
		b := s.create(t, s.spec())
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for range 3 {
			group.Go(func() {
				for ctx.Err() == nil {
					conn, err := s.engine.Dial(ctx, b.id)
					if err == nil {
						conn.Close()
					} else if ctx.Err() == nil && sandbox.KindOf(err) != sandbox.Busy {
						t.Errorf("Dial = %v, want a stream or an error of kind busy", err)
					}
				}
			})
		}
		for range 2 {
			suspend(t, suspender, b.id)
			resume(t, suspender, b.id)
		}
		cancel()
		group.Wait()
		b.mustRequest(t, "POST", "/count", nil)
	})
	t.Run("Suspend closes open streams", func(t *testing.T) {
		b := s.create(t, s.spec())
		response := b.startSleep(t)
		suspend(t, suspender, b.id)
		wantCutOff(t, response)
		resume(t, suspender, b.id)
		b.mustRequest(t, "GET", "/args", nil)
	})
	t.Run("a suspended sandbox can be removed", func(t *testing.T) {
		b := s.create(t, s.spec())
		suspend(t, suspender, b.id)
		remove(t, s.engine, b.id)
		s.wantEmpty(t, s.engine)
		wantKind(t, "Resume", suspender.Resume(t.Context(), b.id), sandbox.NotFound)
	})
	t.Run("a sandbox can be removed during Suspend and Resume", func(t *testing.T) {
		for _, fromSuspended := range []bool{false, true} {
			b, step := s.create(t, s.spec()), suspender.Suspend
			if fromSuspended {
				suspend(t, suspender, b.id)
				step = suspender.Resume
			}
			var group sync.WaitGroup
			group.Go(func() { _ = step(t.Context(), b.id) }) // step may return an error, because the sandbox may be removed already
			time.Sleep(20 * time.Millisecond)                // call Remove at some moment of the step
			remove(t, s.engine, b.id)
			group.Wait()
			s.wantEmpty(t, s.engine)
		}
	})
	t.Run("Create rejects the id of a suspended sandbox", func(t *testing.T) {
		spec := s.spec()
		b := s.create(t, spec)
		b.mustRequest(t, "POST", "/count", nil)
		suspend(t, suspender, b.id)
		if err := s.engine.Create(t.Context(), spec); err == nil {
			t.Error("Create = nil, want an error")
		}
		resume(t, suspender, b.id)
		if got := b.mustRequest(t, "POST", "/count", nil); got != "1 2 " {
			t.Errorf("counter = %q, want 1 2", got)
		}
	})
	t.Run("a sandbox stays suspended when the engine is opened again", func(t *testing.T) {
		home := "test-" + string(sandbox.NewID())
		first := s.open(t, home, s.guest)
		spec := s.spec()
		if err := first.Create(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { remove(t, first, spec.ID) })
		own, _ := engine.As[engine.Suspender](first)
		with := &suite{engine: first}
		with.dial(t, spec.ID).mustRequest(t, "POST", "/count", nil)
		suspend(t, own, spec.ID)
		next := s.open(t, home, s.guest)
		s.wantSuspended(t, next, spec.ID)
		own, _ = engine.As[engine.Suspender](next)
		resume(t, own, spec.ID)
		with = &suite{engine: next}
		if got := with.dial(t, spec.ID).mustRequest(t, "POST", "/count", nil); got != "1 2 " {
			t.Errorf("counter = %q, want 1 2", got)
		}
	})
	t.Run("a cancelled Suspend or Resume leaves the sandbox usable", func(t *testing.T) {
		b := s.create(t, s.spec())
		count := ""
		for i, giveUpAfter := range []time.Duration{0, 5 * time.Millisecond, 50 * time.Millisecond, 200 * time.Millisecond} {
			ctx, cancel := context.WithTimeout(t.Context(), giveUpAfter)
			_ = suspender.Suspend(ctx, b.id)
			_ = suspender.Resume(ctx, b.id)
			cancel()
			resume(t, suspender, b.id)
			count += string(rune('1'+i)) + " "
			if got := b.mustRequest(t, "POST", "/count", nil); got != count {
				t.Fatalf("after calls that were cancelled after %v: counter = %q, want %q", giveUpAfter, got, count)
			}
			suspend(t, suspender, b.id)
			ctx, cancel = context.WithTimeout(t.Context(), giveUpAfter)
			_ = suspender.Resume(ctx, b.id)
			cancel()
		}
	})
	t.Run("Suspend and Resume of a missing or ended sandbox are not_found", func(t *testing.T) {
		for _, id := range []sandbox.ID{sandbox.NewID(), "", "sbx_../../etc/passwd"} {
			wantKind(t, "Suspend("+string(id)+")", suspender.Suspend(t.Context(), id), sandbox.NotFound)
			wantKind(t, "Resume("+string(id)+")", suspender.Resume(t.Context(), id), sandbox.NotFound)
		}
		b := s.create(t, s.spec())
		_, _ = b.request(t.Context(), "POST", "/exit", nil)
		s.awaitEnd(t)
		wantKind(t, "Suspend of an ended sandbox", suspender.Suspend(t.Context(), b.id), sandbox.NotFound)
		wantKind(t, "Resume of an ended sandbox", suspender.Resume(t.Context(), b.id), sandbox.NotFound)
	})
}

// fork tests [engine.Forker], if the engine implements it.
func (s *suite) fork(t *testing.T) {
	forker, ok := engine.As[engine.Forker](s.engine)
	if !ok {
		t.Skip("the engine can't fork sandboxes")
	}
	suspender, _ := engine.As[engine.Suspender](s.engine)
	original := s.create(t, s.spec())
	original.mustRequest(t, "POST", "/count", nil)
	if s.engine.Info().Suspend == engine.Paused { // an engine that can't save memory can't fork
		wantKind(t, "Fork", forker.Fork(t.Context(), original.id, sandbox.NewID()), sandbox.Invalid)
		s.wantOnly(t, original.id)
		return
	}
	newFork := func(t *testing.T) testSandbox {
		id := sandbox.NewID()
		start := time.Now()
		if err := forker.Fork(t.Context(), original.id, id); err != nil {
			t.Fatalf("Fork: %v", err)
		}
		disconnect(original.id)
		t.Logf("forked in %v", time.Since(start))
		t.Cleanup(func() { remove(t, s.engine, id) })
		return s.dial(t, id)
	}
	t.Run("a fork is independent of the original", func(t *testing.T) {
		b := newFork(t)
		wantPosture := original.mustRequest(t, "GET", "/posture/kernel", nil)
		if got := b.mustRequest(t, "GET", "/posture/kernel", nil); got != wantPosture {
			t.Errorf("the isolation of the original is\n%s\nand of the fork\n%s", wantPosture, got)
		}
		b.mustRequest(t, "POST", "/count", nil)
		if got := b.mustRequest(t, "POST", "/count", nil); got != "1 2 3 " {
			t.Errorf("the fork's counter = %q, want 1 2 3", got)
		}
		if got := original.mustRequest(t, "POST", "/count", nil); got != "1 2 " {
			t.Errorf("the original's counter = %q, want 1 2", got)
		}
		if suspender == nil {
			return
		}
		suspend(t, suspender, b.id)
		resume(t, suspender, b.id)
		if got := b.mustRequest(t, "POST", "/count", nil); got != "1 2 3 4 " {
			t.Errorf("the fork's counter after a suspend and resume = %q, want 1 2 3 4", got)
		}
	})
	t.Run("a fork of a suspended sandbox leaves the original suspended", func(t *testing.T) {
		if suspender == nil {
			t.Skip("the engine can't suspend sandboxes")
		}
		suspend(t, suspender, original.id)
		b := newFork(t)
		if got := b.mustRequest(t, "POST", "/count", nil); !strings.HasSuffix(got, " 3 ") {
			t.Errorf("the fork's counter = %q, want 1 2 3", got)
		}
		for _, c := range list(t, s.engine) {
			if c.Suspended != (c.ID == original.id) {
				t.Errorf("List() has %+v, want only the original suspended", c)
			}
		}
		resume(t, suspender, original.id)
		if got := original.mustRequest(t, "POST", "/count", nil); got != "1 2 3 " {
			t.Errorf("the original's counter = %q, want 1 2 3", got)
		}
	})
	t.Run("a failed Fork leaves nothing", func(t *testing.T) {
		if err := forker.Fork(t.Context(), original.id, original.id); err == nil {
			t.Error("Fork to the original's id = nil, want an error")
		}
		if err := forker.Fork(t.Context(), sandbox.NewID(), sandbox.NewID()); err == nil {
			t.Error("Fork of a missing sandbox = nil, want an error")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if id := sandbox.NewID(); forker.Fork(ctx, original.id, id) == nil {
			remove(t, s.engine, id)
		}
		disconnect(original.id)
		s.wantOnly(t, original.id)
		original.mustRequest(t, "POST", "/count", nil)
	})
}

// wantOnly fails the test unless the engine lists only this sandbox, as running. The sandbox may have a checkpoint.
func (s *suite) wantOnly(t *testing.T, id sandbox.ID) {
	t.Helper()
	got, want := list(t, s.engine), engine.Container{ID: id, Running: true}
	if len(got) == 1 {
		want.StateBytes = got[0].StateBytes
	}
	if len(got) != 1 || got[0] != want {
		t.Errorf("List() = %+v, want %+v alone", got, want)
	}
}

// wantSuspended fails the test unless the engine lists only this sandbox, as suspended.
func (s *suite) wantSuspended(t *testing.T, e engine.Engine, id sandbox.ID) {
	t.Helper()
	if got := list(t, e); len(got) != 1 || got[0].ID != id || !got[0].Suspended || got[0].Running || got[0].Detail == "" || !got[0].AsOf.IsZero() {
		t.Errorf("List() = %+v, want %s alone, suspended", got, id)
	}
}

func suspend(t *testing.T, e engine.Suspender, id sandbox.ID) {
	t.Helper()
	if err := e.Suspend(t.Context(), id); err != nil {
		t.Errorf("Suspend: %v (%v)", err, errors.Unwrap(err))
	}
	disconnect(id)
}

func resume(t *testing.T, e engine.Suspender, id sandbox.ID) {
	t.Helper()
	if err := e.Resume(t.Context(), id); err != nil {
		t.Errorf("Resume: %v", err)
	}
	disconnect(id)
}
