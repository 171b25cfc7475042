package api_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/api"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// start returns an execution that runs until it is interrupted.
func start(t *testing.T, c *api.Client) string {
	t.Helper()
	s, err := c.Create(t.Context(), sandbox.CreateRequest{})
	must(t, err)
	x, err := c.Execute(t.Context(), string(s.ID), sandbox.ExecuteRequest{Code: "sleep"})
	must(t, err)
	return string(x.ID)
}

func (m *memory) print(id, text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.executions[sandbox.ExecutionID(id)].add(sandbox.Event{Type: sandbox.EventStdout, Text: text})
}

// TestFollow checks that events arrive in order and while the code runs, and that they can be read again from any number.
func TestFollow(t *testing.T) {
	m := newMemory(t)
	c, _, _ := serve(t, m, discardLog())
	id := start(t, c)
	m.print(id, "one")
	var got []string
	err := c.FollowExecution(t.Context(), id, 0, func(e sandbox.Event) error {
		got = append(got, e.Text)
		switch e.Seq {
		case 1:
			m.print(id, "two\n\n\u2028") // printed only after the first event has arrived, while the code still runs
		case 2:
			_, err := c.Interrupt(t.Context(), id)
			return err
		}
		return nil
	})
	must(t, err)
	equal(t, "events", got, []string{"one", "two\n\n\u2028", ""})

	got = nil
	must(t, c.FollowExecution(t.Context(), id, 2, func(e sandbox.Event) error {
		got = append(got, e.Text)
		return nil
	}))
	equal(t, "events from 2", got, []string{"two\n\n\u2028", ""})

	stop := errors.New("enough")
	if err := c.FollowExecution(t.Context(), id, 1, func(sandbox.Event) error { return stop }); err != stop {
		t.Errorf("FollowExecution() = %v, want fn's error", err)
	}
	if err := c.FollowExecution(t.Context(), string(sandbox.NewExecutionID()), 1, nil); sandbox.KindOf(err) != sandbox.NotFound {
		t.Errorf("FollowExecution(unknown) = %v, want not_found", err)
	}
}

// watchedMemory closes followed when a FollowExecution begins, and gone when it ends.
type watchedMemory struct {
	*memory
	followed, gone chan struct{}
}

func (w watchedMemory) FollowExecution(ctx context.Context, id string, from int64, fn func(sandbox.Event) error) error {
	close(w.followed)
	defer close(w.gone)
	return w.memory.FollowExecution(ctx, id, from, fn)
}

// TestFollowerDisconnectLeavesTheExecutionRunning checks that the handler returns when a follower disconnects, and that the
// execution continues.
func TestFollowerDisconnectLeavesTheExecutionRunning(t *testing.T) {
	m := newMemory(t)
	w := watchedMemory{memory: m, followed: make(chan struct{}), gone: make(chan struct{})}
	c, _, _ := serve(t, w, discardLog())
	id := start(t, c)
	m.print(id, "one")
	ctx, cancel := context.WithCancel(t.Context())
	err := c.FollowExecution(ctx, id, 1, func(sandbox.Event) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("FollowExecution() = %v, want canceled", err)
	}
	wait(t, "the handler ends", w.gone)
	x, err := c.GetExecution(t.Context(), id, 0, sandbox.Window{})
	must(t, err)
	equal(t, "state", x.State, sandbox.ExecRunning)
}

// TestDrain checks that Drain ends streams and waits with an error that the daemon is stopping.
func TestDrain(t *testing.T) {
	m := newMemory(t)
	w := watchedMemory{memory: m, followed: make(chan struct{}), gone: make(chan struct{})}
	c, h, _ := serve(t, w, discardLog())
	id := start(t, c)
	m.print(id, "one")
	errs := make(chan error, 2)
	first := make(chan struct{})
	go func() {
		errs <- c.FollowExecution(t.Context(), id, 1, func(sandbox.Event) error { close(first); return nil })
	}()
	go func() {
		_, err := c.GetExecution(t.Context(), id, 300, sandbox.Window{})
		errs <- err
	}()
	wait(t, "the first event", first)
	h.Drain()
	for range 2 {
		select {
		case err := <-errs:
			if sandbox.KindOf(err) != sandbox.Unavailable || !strings.Contains(err.Error(), "stopping") {
				t.Errorf("error = %v, want that the daemon stops", err)
			}
		case <-time.After(time.Minute):
			t.Fatal("a call still waits a minute after Drain, want both ended")
		}
	}
}

// TestServerSentEvents checks that a stream begins after Last-Event-ID, and that a client that has seen the last event gets
// status 204 and so does not reconnect.
func TestServerSentEvents(t *testing.T) {
	m := newMemory(t)
	c, _, server := serve(t, m, discardLog())
	id := start(t, c)
	m.print(id, "one")
	m.print(id, "two\nlines")
	client := &http.Client{Transport: &http.Transport{DialContext: dialer(server)}}
	get := func(last string) *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://x/v1/executions/"+id+"/events", nil)
		must(t, err)
		req.Header.Set("Accept", "text/html;q=0.5, text/event-stream")
		req.Header.Set("Last-Event-ID", last)
		resp, err := client.Do(req)
		must(t, err)
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	resp := get("1")
	equal(t, "Content-Type", resp.Header.Get("Content-Type"), "text/event-stream")
	lines := bufio.NewReader(resp.Body)
	for _, want := range []string{"id: 2\n", `data: {"seq":2,"type":"stdout","offset":3,"text":"two\nlines"}` + "\n", "\n"} {
		line, err := lines.ReadString('\n')
		must(t, err)
		equal(t, "line", line, want)
	}
	_, err := c.Interrupt(t.Context(), id)
	must(t, err)
	rest, err := io.ReadAll(lines)
	must(t, err)
	if !strings.HasPrefix(string(rest), "id: 3\ndata: ") {
		t.Errorf("rest = %q, want event 3", rest)
	}
	equal(t, "status after the end", get("3").StatusCode, http.StatusNoContent)
	equal(t, "status of a bad id", get("x").StatusCode, http.StatusBadRequest)
}

// failsLate is an implementation of api.Sandboxes whose FollowExecution sends one event and then returns an error.
type failsLate struct {
	api.Sandboxes
	err error
}

func (f failsLate) FollowExecution(_ context.Context, _ string, _ int64, fn func(sandbox.Event) error) error {
	return errors.Join(fn(sandbox.Event{Seq: 1}), f.err)
}

// TestStreamFails checks that if an error ends a stream, the client returns an error of the same kind, and that the client does
// not get the details of an internal error.
func TestStreamFails(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want sandbox.Kind
	}{
		{sandbox.Errorf(sandbox.Expired, "the sandbox is gone"), sandbox.Expired},
		{errors.New("open /home/me/secret"), sandbox.Internal},
	} {
		c, _, _ := serve(t, failsLate{err: tt.err}, discardLog())
		n := 0
		err := c.FollowExecution(t.Context(), string(sandbox.NewExecutionID()), 1, func(sandbox.Event) error { n++; return nil })
		if sandbox.KindOf(err) != tt.want || n != 1 || strings.Contains(err.Error(), "secret") {
			t.Errorf("FollowExecution() = %v after %d events, want kind %s after 1", err, n, tt.want)
		}
	}
}

func wait(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatalf("did not happen within a minute: %s", what)
	}
}
