package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/api"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
)

var testInfo = api.Info{Version: "1.2.3", Engine: "memory", Limits: api.FixedLimits()}

func discardLog() *slog.Logger { return slog.New(slog.DiscardHandler) }

func handler(s api.Sandboxes) *api.Handler {
	return api.NewHandler(s, func(context.Context) api.Info { return testInfo }, discardLog())
}

// serve serves s through the API on a unix socket, and returns a client, the handler and the HTTP server.
func serve(t testing.TB, s api.Sandboxes, log *slog.Logger) (*api.Client, *api.Handler, *httptest.Server) {
	t.Helper()
	dir, err := os.MkdirTemp("", "api") // t.TempDir is too long for a socket on some systems
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	h := api.NewHandler(s, func(context.Context) api.Info { return testInfo }, log)
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}}
	server.Start()
	c := api.Dial(socket)
	t.Cleanup(func() { c.Close(); server.CloseClientConnections(); server.Close() })
	return c, h, server
}

// TestClientRoundTrip checks that the client's methods return what the implementation of Sandboxes behind the API returned.
func TestClientRoundTrip(t *testing.T) {
	m := newMemory(t)
	c, _, _ := serve(t, m, discardLog())
	ctx := t.Context()

	s, err := c.Create(ctx, sandbox.CreateRequest{DisplayName: "sales / über 100%", TTL: sandbox.Duration(3600e9)})
	must(t, err)
	for _, name := range []string{string(s.ID), s.DisplayName} {
		got, err := c.Get(ctx, name)
		must(t, err)
		equal(t, "Get("+name+")", got, s)
	}
	for range 2 {
		_, err := c.Create(ctx, sandbox.CreateRequest{})
		must(t, err)
	}
	page, err := c.List(ctx, sandbox.ListRequest{PageSize: 2, State: sandbox.Running})
	must(t, err)
	next, err := c.List(ctx, sandbox.ListRequest{PageSize: 2, PageToken: page.NextPageToken})
	must(t, err)
	equal(t, "pages", []int{len(page.Sandboxes), len(next.Sandboxes)}, []int{2, 1})

	dots := ".."
	s, err = c.Update(ctx, string(s.ID), sandbox.UpdateRequest{DisplayName: &dots})
	must(t, err)
	got, err := c.Get(ctx, "..") // http.ServeMux would remove this name from the path, as a reference to the parent folder
	must(t, err)
	equal(t, "Get(..)", got, s)

	x, err := c.Execute(ctx, string(s.ID), sandbox.ExecuteRequest{Code: "echo <b>\x01é", RequestID: "r 1&2", WaitSeconds: 5})
	must(t, err)
	equal(t, "execution's state", x.State, sandbox.ExecSucceeded)
	equal(t, "text", x.Events[0].Text, "<b>\x01é")
	again, err := c.FindExecution(ctx, "r 1&2")
	must(t, err)
	equal(t, "FindExecution", again, x)
	tail, err := c.GetExecution(ctx, string(x.ID), 0.5, sandbox.Window{Offset: 1, Head: 10, Tail: 10})
	must(t, err)
	equal(t, "events from offset 1", len(tail.Events), 1)

	f, err := c.WriteFile(ctx, s.DisplayName, "a b/ü%2F?#.txt", strings.NewReader("0123456789"))
	must(t, err)
	equal(t, "path", f.Path, "a b/ü%2F?#.txt")
	files, omitted, err := c.ListFiles(ctx, string(s.ID))
	must(t, err)
	equal(t, "files", []any{files[0].Path, len(omitted)}, []any{f.Path, 1})

	info, err := c.Info(ctx)
	must(t, err)
	equal(t, "info", info, testInfo)
	must(t, c.Healthy(ctx))
	must(t, c.Ready(ctx))
	m.notReady = errors.New("dial /var/run/secret.sock")
	if err := c.Ready(ctx); sandbox.KindOf(err) != sandbox.Unavailable || strings.Contains(err.Error(), "secret") {
		t.Errorf("Ready() = %v, want unavailable and no detail", err)
	}

	must(t, c.Delete(ctx, string(s.ID)))
	if _, err := c.Get(ctx, string(s.ID)); sandbox.KindOf(err) != sandbox.NotFound {
		t.Errorf("Get of a deleted sandbox = %v, want not_found", err)
	}
}

// failingSandboxes is an implementation of api.Sandboxes whose Get returns err.
type failingSandboxes struct {
	api.Sandboxes
	err error
}

func (f failingSandboxes) Get(context.Context, string) (sandbox.Sandbox, error) {
	return sandbox.Sandbox{}, f.err
}

// TestErrorsKeepTheirKind checks that the client returns each error with its kind and message, and that the details of an
// internal error are only in the daemon's log.
func TestErrorsKeepTheirKind(t *testing.T) {
	for _, kind := range []sandbox.Kind{sandbox.Invalid, sandbox.NotFound, sandbox.Expired, sandbox.Busy, sandbox.Limit, sandbox.Unavailable} {
		t.Run(string(kind), func(t *testing.T) {
			c, _, _ := serve(t, failingSandboxes{err: sandbox.Errorf(kind, "what to do about \"%s\"", kind)}, discardLog())
			_, err := c.Get(t.Context(), "x")
			e, ok := errors.AsType[*sandbox.Error](err)
			if !ok || e.Kind != kind || e.Message != "what to do about \""+string(kind)+"\"" {
				t.Errorf("Get() = %#v, want kind %s and its message", err, kind)
			}
		})
	}
	t.Run("internal", func(t *testing.T) {
		var log bytes.Buffer
		c, _, server := serve(t, failingSandboxes{err: errors.New("open /home/me/secret")}, slog.New(slog.NewJSONHandler(&log, nil)))
		_, err := c.Get(t.Context(), "x")
		if sandbox.KindOf(err) != sandbox.Internal || strings.Contains(err.Error(), "secret") {
			t.Errorf("Get() = %v, want internal and no detail", err)
		}
		server.Close()
		id := err.Error()[strings.LastIndex(err.Error(), " ")+1:]
		if !strings.Contains(log.String(), "secret") || !strings.Contains(log.String(), id) {
			t.Errorf("log = %s, want the detail and the id %s", log.String(), id)
		}
	})
}

// TestGetExecutionWithoutOutput checks that an execution can be read with a window that selects no output, as the tools do
// while they wait.
func TestGetExecutionWithoutOutput(t *testing.T) {
	m := newMemory(t)
	c, _, _ := serve(t, m, discardLog())
	s, err := c.Create(t.Context(), sandbox.CreateRequest{})
	must(t, err)
	x, err := c.Execute(t.Context(), string(s.ID), sandbox.ExecuteRequest{Code: "sleep"})
	must(t, err)
	got, err := c.GetExecution(t.Context(), string(x.ID), 0, sandbox.NoOutput)
	if err != nil || got.State != sandbox.ExecRunning {
		t.Errorf("GetExecution() = %s, %v, want a running execution", got.State, err)
	}
}

// TestErrorWithoutADaemon checks that the error without a running daemon wraps ErrNotRunning and explains how to start one.
func TestErrorWithoutADaemon(t *testing.T) {
	c := api.Dial(filepath.Join(t.TempDir(), "nobody"))
	err := c.Healthy(t.Context())
	if !errors.Is(err, api.ErrNotRunning) || sandbox.KindOf(err) != sandbox.Unavailable || !strings.Contains(err.Error(), "dormouse sandboxd") {
		t.Errorf("Healthy() = %v, want ErrNotRunning", err)
	}
}

// TestDaemonDies checks that if the daemon dies while it sends an answer, the client returns an error of kind unavailable, not
// internal.
func TestDaemonDies(t *testing.T) {
	m := newMemory(t)
	c, _, server := serve(t, m, discardLog())
	s, err := c.Create(t.Context(), sandbox.CreateRequest{})
	must(t, err)
	x, err := c.Execute(t.Context(), string(s.ID), sandbox.ExecuteRequest{Code: "sleep"})
	must(t, err)
	m.mu.Lock()
	m.executions[x.ID].add(sandbox.Event{Type: sandbox.EventStdout, Text: "x"})
	m.mu.Unlock()
	err = c.FollowExecution(t.Context(), string(x.ID), 1, func(sandbox.Event) error {
		server.CloseClientConnections()
		return nil
	})
	if sandbox.KindOf(err) != sandbox.Unavailable {
		t.Errorf("FollowExecution() = %v, want unavailable", err)
	}
}

// TestClientRefuses checks that the client refuses arguments that it cannot send in a request.
func TestClientRefuses(t *testing.T) {
	c := api.Dial(filepath.Join(t.TempDir(), "nobody"))
	ctx := t.Context()
	long := strings.Repeat("x", 10<<20)
	zero := 0
	for _, tt := range []struct {
		name string
		call func() error
		want sandbox.Kind
	}{
		{"empty name", func() error { return c.Delete(ctx, "") }, sandbox.Invalid},
		{"10 MB name", func() error { return c.Delete(ctx, long) }, sandbox.NotFound},
		{"10 MB execution id", func() error { _, err := c.Interrupt(ctx, long); return err }, sandbox.NotFound},
		{"hostile execution id", func() error { _, err := c.Interrupt(ctx, "../sandboxes"); return err }, sandbox.NotFound},
		{"10 MB page token", func() error { _, err := c.List(ctx, sandbox.ListRequest{PageToken: long}); return err }, sandbox.Invalid},
		{"10 MB code", func() error { _, err := c.Execute(ctx, "x", sandbox.ExecuteRequest{Code: long}); return err }, sandbox.Invalid},
		{"invalid UTF-8 in code", func() error { _, err := c.Execute(ctx, "x", sandbox.ExecuteRequest{Code: "\xff"}); return err }, sandbox.Invalid},
		{"timeout of 0", func() error {
			_, err := c.Execute(ctx, "x", sandbox.ExecuteRequest{Code: "1", TimeoutSeconds: &zero})
			return err
		}, sandbox.Invalid},
		{"negative offset", func() error { _, _, err := c.ReadFile(ctx, "x", "a", -1, -1); return err }, sandbox.Invalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.call()
			if sandbox.KindOf(err) != tt.want {
				t.Errorf("kind of %v = %s, want %s", err, sandbox.KindOf(err), tt.want)
			}
			if len(err.Error()) > 1000 {
				t.Errorf("the error has %d bytes, want at most 1000", len(err.Error()))
			}
		})
	}
}

// TestDaemonRefuses checks that the client passes other invalid arguments to the daemon unchanged, and returns its error.
func TestDaemonRefuses(t *testing.T) {
	m := newMemory(t)
	c, _, _ := serve(t, m, discardLog())
	ctx := t.Context()
	_, err := c.Create(ctx, sandbox.CreateRequest{DisplayName: "s"})
	must(t, err)
	ttl := sandbox.Duration(-1)
	for name, tt := range map[string]struct {
		call func() error
		want string
	}{
		"a TTL out of range":    {func() error { _, err := c.Create(ctx, sandbox.CreateRequest{TTL: ttl}); return err }, "ttl"},
		"a new TTL that is bad": {func() error { _, err := c.Update(ctx, "s", sandbox.UpdateRequest{TTL: &ttl}); return err }, "ttl"},
		"no change":             {func() error { _, err := c.Update(ctx, "s", sandbox.UpdateRequest{}); return err }, "nothing to change"},
		"no request_id":         {func() error { _, err := c.FindExecution(ctx, ""); return err }, "request_id is missing"},
		"a path with ..":        {func() error { _, err := c.WriteFile(ctx, "s", "../y", strings.NewReader("")); return err }, `has a ".."`},
		"the path ..":           {func() error { _, err := c.WriteFile(ctx, "s", "..", strings.NewReader("")); return err }, `has a ".."`},
		"a path with NUL":       {func() error { _, _, err := c.ReadFile(ctx, "s", "a\x00", 0, -1); return err }, "control character"},
		"a path outside":        {func() error { _, _, err := c.ReadFile(ctx, "s", "/etc/passwd", 0, -1); return err }, "outside /workspace"},
		"a folder":              {func() error { _, _, err := c.ReadFile(ctx, "s", "a/", 0, -1); return err }, "names a folder"},
		"a file over 100 MiB": {func() error {
			_, err := c.WriteFile(ctx, "s", "y", sizedReader{sandbox.MaxFileBytes + 1})
			return err
		}, "larger than 100 MiB"},
	} {
		if err := tt.call(); sandbox.KindOf(err) != sandbox.Invalid || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v of kind %s, want invalid and %q", name, err, sandbox.KindOf(err), tt.want)
		}
	}
	if len(m.calls) > 0 {
		t.Errorf("the daemon wrote %q, want no file", m.calls)
	}
	_, err = c.WriteFile(ctx, "s", "/workspace/dir/a b%2F.txt", strings.NewReader("x"))
	must(t, err)
	equal(t, "the written paths", m.calls, []string{"dir/a b%2F.txt"})
}

// sizedReader is a reader that reports a length of n bytes and fails when it is read.
type sizedReader struct{ n int }

func (s sizedReader) Len() int                 { return s.n }
func (s sizedReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal[T any](t testing.TB, what string, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s = %+v, want %+v", what, got, want)
	}
}

// TestDaemonOfAnotherVersion checks the error if a daemon of another version refuses a field or parameter that it does not know.
func TestDaemonOfAnotherVersion(t *testing.T) {
	daemon := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var create struct {
			DisplayName string `json:"display_name"`
		}
		switch {
		case r.URL.Path == "/v1/info":
			wire.WriteJSON(w, http.StatusOK, api.Info{Version: "v0.0.1"})
		case r.Method == http.MethodPost:
			if err := wire.ReadJSON(w, r, 1<<10, &create); err != nil {
				wire.WriteError(w, err)
				return
			}
			wire.WriteError(w, sandbox.Errorf(sandbox.Invalid, "another refusal"))
		default:
			wire.WriteError(w, sandbox.Errorf(sandbox.Invalid, `"page_size" is not a parameter here: there are none`))
		}
	}))
	defer daemon.Close()
	c := api.DialBy(func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", daemon.Listener.Addr().String())
	})
	_, create := c.Create(t.Context(), sandbox.CreateRequest{ForkOf: "x"})
	_, list := c.List(t.Context(), sandbox.ListRequest{PageSize: 5})
	for field, err := range map[string]error{"fork_of": create, "page_size": list} {
		want := "the running Dormouse daemon has another version (v0.0.1), which does not support " + field + ": restart it."
		if err == nil || !strings.HasPrefix(err.Error(), want) || sandbox.KindOf(err) != sandbox.Invalid {
			t.Errorf("the error is %v, want %s …", err, want)
		}
	}
	if _, err := c.Create(t.Context(), sandbox.CreateRequest{DisplayName: "x"}); err == nil || err.Error() != "another refusal" {
		t.Errorf("another refusal became %v", err)
	}
}

// TestALongWaitLeavesItsSlot checks that a request with a long wait first exchanges its slot for one among the waiting
// requests. If no such slot is free, the request must wait for at most a second.
func TestALongWaitLeavesItsSlot(t *testing.T) {
	for name, c := range map[string]struct {
		query     string
		allowed   bool
		exchanges int64
		ends      bool // the wait ends before the execution ends
	}{
		"a short wait":                  {"wait_seconds=1", false, 0, true},
		"a long wait without a slot":    {"wait_seconds=300", false, 1, true},
		"a long wait that has its slot": {"wait_seconds=300", true, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory(t)
			box, err := m.Create(t.Context(), sandbox.CreateRequest{})
			if err != nil {
				t.Fatal(err)
			}
			x, err := m.Execute(t.Context(), string(box.ID), sandbox.ExecuteRequest{Code: "sleep", TimeoutSeconds: new(600)})
			if err != nil {
				t.Fatal(err)
			}
			var exchanges atomic.Int64
			exchanged := make(chan struct{}, 10)
			h := handler(m)
			answered := make(chan *httptest.ResponseRecorder, 1)
			go func() {
				ctx := wire.WithWaiting(t.Context(), func() bool {
					exchanges.Add(1)
					exchanged <- struct{}{}
					return c.allowed
				}, func(context.Context) bool { return true })
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/v1/executions/"+string(x.ID)+"?"+c.query, nil))
				answered <- w
			}()
			if !c.ends {
				<-exchanged
				if _, err := m.Interrupt(t.Context(), string(x.ID)); err != nil {
					t.Fatal(err)
				}
			}
			w := <-answered
			var got sandbox.Execution
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got.State.Final() == c.ends {
				t.Errorf("got %s and %v, want an execution that is final: %v", w.Body, err, !c.ends)
			}
			if exchanges.Load() != c.exchanges {
				t.Errorf("the slot was exchanged %d times, want %d", exchanges.Load(), c.exchanges)
			}
		})
	}
}

// TestReadingOutputAfterAWaitNeedsASlot checks that a request that has waited reads large output only if it gets a slot among
// the working requests.
func TestReadingOutputAfterAWaitNeedsASlot(t *testing.T) {
	m := newMemory(t)
	box, err := m.Create(t.Context(), sandbox.CreateRequest{})
	must(t, err)
	x, err := m.Execute(t.Context(), string(box.ID), sandbox.ExecuteRequest{Code: "sleep", TimeoutSeconds: new(600)})
	must(t, err)
	_, err = m.Interrupt(t.Context(), string(x.ID))
	must(t, err)
	for _, tt := range []struct {
		name, query string
		slot        bool
		status      int
	}{
		{"large output with a slot", "", true, http.StatusOK},
		{"large output without a slot", "", false, http.StatusTooManyRequests},
		{"small output without a slot", "&head=100&tail=100", false, http.StatusOK},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx := wire.WithWaiting(t.Context(), func() bool { return true }, func(context.Context) bool { return tt.slot })
			w := httptest.NewRecorder()
			handler(m).ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/v1/executions/"+string(x.ID)+"?wait_seconds=300"+tt.query, nil))
			if w.Code != tt.status || tt.status != http.StatusOK && !strings.Contains(w.Body.String(), "ask for it again in a moment") {
				t.Errorf("the answer is %d %s, want status %d", w.Code, w.Body, tt.status)
			}
		})
	}
}
