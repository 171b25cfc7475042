package server_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/server"
	"github.com/dormouse-sandbox/dormouse/tools"
)

// TestStop checks that a server that stops answers the call in flight and ends its streams.
func TestStop(t *testing.T) {
	address, end := serve(t, nil)
	stream := openSSE(t, address)
	g, done := newGate(t), make(chan string, 1)
	go func() {
		_, body := ask(t, "POST", "http://"+address+"/mcp", g.call("1"))
		done <- body
	}()
	g.awaitCalls(1)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		end()
	}()
	select {
	case event, open := <-stream.events:
		if open {
			t.Errorf("the stream has the event %q, want its end", event)
		}
	case <-time.After(time.Minute):
		t.Error("the stream is open after a minute, want that it ends when the server stops")
	}
	g.open()
	if body := <-done; !strings.Contains(body, "waited") {
		t.Errorf("the call in flight: %s, want its answer", body)
	}
	<-stopped
}

// slowSandboxes is a fake daemon whose execution runs until end is closed.
type slowSandboxes struct {
	tools.Sandboxes
	end chan struct{}
}

func (s *slowSandboxes) state() sandbox.ExecutionState {
	select {
	case <-s.end:
		return sandbox.ExecFailed
	default:
		return sandbox.ExecRunning
	}
}

func (s *slowSandboxes) Execute(_ context.Context, _ string, r sandbox.ExecuteRequest) (sandbox.Execution, error) {
	return sandbox.Execution{ID: "exec_1", State: s.state(), CreateTime: time.Now()}, nil
}

func (s *slowSandboxes) GetExecution(ctx context.Context, id string, wait float64, _ sandbox.Window) (sandbox.Execution, error) {
	select {
	case <-s.end:
	case <-time.After(time.Duration(wait * float64(time.Second))):
	case <-ctx.Done():
		return sandbox.Execution{}, ctx.Err()
	}
	return sandbox.Execution{ID: sandbox.ExecutionID(id), State: s.state()}, nil
}

// TestWaits checks that Drain ends the waits of GetExecution, and that no execution starts afterwards.
func TestWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slowSandboxes{end: make(chan struct{})}
		w := server.NewWaits(s)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := w.GetExecution(t.Context(), "exec_1", 300, sandbox.NoOutput); !errors.Is(err, sandbox.ErrStopping) {
				t.Errorf("GetExecution() = %v, want ErrStopping", err)
			}
		})
		synctest.Wait()
		w.Drain()
		wg.Wait()
		if _, err := w.Execute(t.Context(), "s", sandbox.ExecuteRequest{}); sandbox.KindOf(err) != sandbox.Unavailable {
			t.Errorf("Execute() of a stopped server = %v, want unavailable", err)
		}
	})
}

// TestExecutionMetrics checks that executions reported by the daemon are counted.
func TestExecutionMetrics(t *testing.T) {
	m := server.NewMetrics("1")
	for _, state := range []sandbox.ExecutionState{sandbox.ExecQueued, sandbox.ExecQueued, sandbox.ExecFailed} {
		m.Execution(sandbox.Execution{ID: "exec_1", State: state})
	}
	h := newHTTP(t, "127.0.0.1:8765", func(c *server.HTTPConfig) { c.Metrics = m })
	text := do(h, "GET", "/metrics", "").Body.String()
	if !strings.Contains(text, `dormouse_executions_ended_total{state="failed"} 1`) || !strings.Contains(text, "dormouse_executions_started_total 2") {
		t.Errorf("the metrics are %s, want 2 executions started and 1 failed", text)
	}
}

// TestDisconnectsFreeAllSlots checks that all slots are free again after clients disconnected during calls and streams.
func TestDisconnectsFreeAllSlots(t *testing.T) {
	address, end := serve(t, nil)
	for range 20 {
		c := dial(t, address)
		g := newGate(t)
		message := g.call("1")
		fmt.Fprint(c, post(address, len(message)), message)
		s := openSSE(t, address)
		s.post(message)
		g.awaitCalls(2)
		s.cancel()
		c.Close()
	}
	eventually(t, "no calls and streams are counted", func() bool {
		_, text := ask(t, "GET", "http://"+address+"/metrics", "")
		return strings.Contains(text, "in_flight{kind=\"call\"} 0\n") && strings.Contains(text, `in_flight{kind="stream"} 0`)
	})
	wantAliveHTTP(t, address)
	end()
}
