//go:build unix

package sandboxd_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// present is a fake engine that works.
type present struct {
	engine.Engine
	closed bool
}

func (*present) Info() engine.Info                                { return engine.Info{Name: "docker", CPUs: 2} }
func (*present) List(context.Context) ([]engine.Container, error) { return []engine.Container{{}}, nil }
func (*present) Remove(context.Context, sandbox.ID) error         { return nil }
func (*present) Create(context.Context, engine.Spec) error        { return nil }
func (p *present) Close() error                                   { p.closed = true; return nil }

// TestLazyEngine checks that a call returns the reason why the underlying engine is not open, and that calls work once that
// engine can be opened.
func TestLazyEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		opened, up := 0, false
		real := &present{}
		e := sandboxd.NewLazyEngine("docker", func(context.Context) (engine.Engine, error) {
			time.Sleep(10 * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			if opened++; !up {
				return nil, sandbox.Errorf(sandbox.Unavailable, "no engine answers: start Docker")
			}
			return real, nil
		}, slog.New(slog.DiscardHandler))
		ctx := t.Context()

		var callers sync.WaitGroup
		for range 20 {
			callers.Go(func() {
				if err := e.Create(ctx, engine.Spec{}); sandbox.KindOf(err) != sandbox.Unavailable || !strings.Contains(err.Error(), "start Docker") {
					t.Errorf("Create() = %v, want the reason why the engine cannot be opened", err)
				}
			})
		}
		callers.Wait()
		if opened != 1 {
			t.Errorf("20 callers tried to open the engine %d times, want 1", opened)
		}
		if why := e.Info().Why; !strings.Contains(why, "start Docker") {
			t.Errorf("Info().Why = %q, want the reason", why)
		}

		mu.Lock()
		up = true
		mu.Unlock()
		if err := e.Remove(ctx, "x"); err == nil {
			t.Error("Remove() right after a failed attempt = nil, want the error of that attempt")
		}
		time.Sleep(time.Second)
		if list, err := e.List(ctx); err != nil || len(list) != 1 {
			t.Errorf("List() a second after a failed attempt = %v, %v, want one container", list, err)
		}
		if e.Info().CPUs != 2 {
			t.Errorf("Info() = %+v, want that of the engine", e.Info())
		}
		must(t, e.Close())
		if !real.closed {
			t.Error("Close() did not close the engine")
		}
	})
}

// TestLazyEngineAttemptOutlivesItsCaller checks that an attempt to open the underlying engine continues when the caller's
// context ends, and that it ends when the lazyEngine is closed.
func TestLazyEngineAttemptOutlivesItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := sandboxd.NewLazyEngine("docker", func(ctx context.Context) (engine.Engine, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := e.List(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("List() = %v, want the caller's deadline", err)
		}
		if _, err := e.List(t.Context()); sandbox.KindOf(err) != sandbox.Unavailable || !strings.Contains(err.Error(), "doctor") {
			t.Errorf("List() = %v, want unavailable", err)
		}
		time.Sleep(2 * time.Second)
		waiting := make(chan error)
		go func() { _, err := e.List(t.Context()); waiting <- err }()
		synctest.Wait()
		must(t, e.Close())
		if err := <-waiting; sandbox.KindOf(err) != sandbox.Unavailable {
			t.Errorf("List() = %v, want that the daemon is stopping", err)
		}
	})
}

// TestConfig checks which settings are valid. It does not test the settings with a fixed set of values, which the command
// line checks.
func TestConfig(t *testing.T) {
	for _, tt := range []struct {
		name     string
		settings sandboxd.Settings
		want     string // a part of the error; empty: no error
	}{
		{"accepts zero", sandboxd.Settings{}, ""},
		{"rejects a TTL above 14 days", sandboxd.Settings{TTL: sandbox.Duration(15 * 24 * time.Hour)}, "ttl"},
		{"rejects a negative number of sandboxes", sandboxd.Settings{MaxSandboxes: -1}, "negative"},
		{"rejects a negative duration", sandboxd.Settings{IdleSuspend: -1}, "negative"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := sandboxd.Config{Settings: tt.settings}.Validate()
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("validate() = %v, want an error with %q", err, tt.want)
			}
		})
	}
}

// TestS62_LogForging checks that input from clients stays within one line of the log and cannot control the terminal.
func TestS62_LogForging(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: sandboxd.Harmless}))
	for _, hostile := range []string{"a\nlevel=ERROR", "\x1b]0;x\x07", "\u202Egnp", "\x9b31m", "é"} {
		log.Info("x", "text", hostile, "err", errors.New(hostile))
	}
	got := out.String()
	if strings.Count(got, "\n") != 5 || strings.ContainsAny(got, "\x1b\x07\u202e\u009b") || !strings.Contains(got, "é") {
		t.Errorf("the log is %q, want 5 lines without control characters", got)
	}
}

// suspendingEngine is an engine that also implements engine.Suspender.
type suspendingEngine struct{ engine.Engine }

func (suspendingEngine) Suspend(context.Context, sandbox.ID) error { return nil }
func (suspendingEngine) Resume(context.Context, sandbox.ID) error  { return nil }

// TestLazyEngineOffersOptionalInterfaces checks that a lazyEngine offers an optional interface only once the underlying engine
// is open, and only if that engine implements the interface.
func TestLazyEngineOffersOptionalInterfaces(t *testing.T) {
	for _, tt := range []struct {
		name string
		real engine.Engine
		want bool
	}{{"an engine that can suspend", suspendingEngine{new(present)}, true}, {"an engine that cannot suspend", new(present), false}} {
		t.Run(tt.name, func(t *testing.T) {
			e := sandboxd.NewLazyEngine("test", func(context.Context) (engine.Engine, error) { return tt.real, nil }, slog.New(slog.DiscardHandler))
			defer e.Close()
			if _, can := engine.As[engine.Suspender](e); can {
				t.Error("the engine offers Suspender before it is open")
			}
			if _, err := e.List(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, can := engine.As[engine.Suspender](e); can != tt.want {
				t.Errorf("the open engine offers Suspender: %v, want %v", can, tt.want)
			}
			if _, can := engine.As[engine.Forker](e); can {
				t.Error("the open engine offers Forker, which it does not implement")
			}
		})
	}
}
