package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/server"
	"github.com/dormouse-sandbox/dormouse/server/spool"
	"github.com/dormouse-sandbox/dormouse/tools"
)

const secret = "dormouse_a-secret-of-the-tests-0123456789"

// fakeDaemon is a fake daemon for /readyz and /metrics.
type fakeDaemon struct{ ready error }

func (i fakeDaemon) Ready(context.Context) error { return i.ready }

func (fakeDaemon) List(_ context.Context, r sandbox.ListRequest) (sandbox.Page, error) {
	if r.PageToken == "" {
		return sandbox.Page{Sandboxes: []sandbox.Sandbox{{State: sandbox.Running}, {State: sandbox.Suspended}}, NextPageToken: "2"}, nil
	}
	return sandbox.Page{Sandboxes: []sandbox.Sandbox{{State: sandbox.Running}}}, nil
}

// newHTTP returns a server with the given listen address and the fake tools. Its REST API answers with the path, the body's
// size and the Authorization header of the request.
func newHTTP(t testing.TB, address string, change func(*server.HTTPConfig)) *server.HTTP {
	t.Helper()
	return newHTTPOf(t, address, fakeTools(), openSpool(t, 0), change)
}

func newHTTPOf(t testing.TB, address string, list []tools.Tool, folder *spool.Folder, change func(*server.HTTPConfig)) *server.HTTP {
	t.Helper()
	token, err := server.NewToken("default", secret)
	if err != nil {
		t.Fatal(err)
	}
	metrics := server.NewMetrics("1.2.3")
	c := server.HTTPConfig{Address: address, Tokens: []server.Token{token}, SSE: true, Sandboxes: fakeDaemon{}, Metrics: metrics,
		API: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n, err := io.Copy(io.Discard, r.Body)
			if err != nil {
				w.WriteHeader(http.StatusBadRequest)
			}
			json.NewEncoder(w).Encode(map[string]any{"path": r.URL.Path, "bytes": n, "token": r.Header.Get("Authorization")})
		})}
	if change != nil {
		change(&c)
	}
	h, err := server.NewHTTP(server.New(list, server.Config{Metrics: metrics, Grace: 100 * time.Millisecond, Spool: folder}), c)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// serve starts a server on a local port. The server stops when the test ends or end is called.
func serve(t testing.TB, change func(*server.HTTPConfig)) (address string, end func()) {
	t.Helper()
	return serveOf(t, fakeTools(), openSpool(t, 0), change)
}

func serveOf(t testing.TB, list []tools.Tool, folder *spool.Folder, change func(*server.HTTPConfig)) (address string, end func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := newHTTPOf(t, l.Addr().String(), list, folder, change)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Serve(ctx, l) }()
	ended := false
	end = func() {
		cancel()
		if !ended {
			ended = true
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("Serve() = %v, want nil", err)
				}
			case <-time.After(time.Minute):
				t.Error("Serve() has not returned a minute after its context ended")
			}
		}
	}
	t.Cleanup(end)
	return l.Addr().String(), end
}

// ask sends a request with the token and further header lines such as "Host: x". A line with an empty value,
// such as "Authorization: ", removes the header with this name.
func ask(t testing.TB, method, url, body string, header ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	setHeader(r, header)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	return res, string(b)
}

func setHeader(r *http.Request, header []string) {
	r.Header.Set("Authorization", "Bearer "+secret)
	r.Header.Set("Content-Type", "application/json")
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		switch {
		case value == "":
			r.Header.Del(name)
		case name == "Host":
			r.Host = value
		default:
			r.Header.Add(name, value)
			if name == "Content-Type" || name == "Authorization" {
				r.Header.Set(name, value)
			}
		}
	}
}

// do passes a request with the token to the handler directly, without a connection. The header lines are as for ask.
func do(h http.Handler, method, path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Host = "localhost:8765"
	setHeader(r, header)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// TestS01_ForeignHostsAndOriginsAreRefused checks that, at every listen address, the server refuses requests from web pages
// that use DNS rebinding or have another origin, and requests without the token.
func TestS01_ForeignHostsAndOriginsAreRefused(t *testing.T) {
	type address struct{ listen, own string }
	paths, turn := []string{"/mcp", "/sse", "/message", "/v1/info", "/metrics", "/healthz", "/nothing"}, 0
	for _, at := range []address{{"127.0.0.1:8765", "127.0.0.1:8765"}, {"[::1]:8765", "[::1]:8765"},
		{"172.17.0.2:8765", "172.17.0.2:8765"}, {"0.0.0.0:8765", "localhost"}, {":8765", "127.0.0.1"}} {
		h := newHTTP(t, at.listen, func(c *server.HTTPConfig) {
			c.AllowHosts, c.AllowOrigins = []string{"Sandbox.example.com"}, []string{"https://app.example.com"}
		})
		hosts := map[string]bool{
			"localhost": true, "localhost:8765": true, "LocalHost:8765": true, "127.0.0.1:1234": true, "[::1]:8765": true, "[::1]": true,
			"sandbox.example.com": true, "sandbox.example.com:443": true, at.own: true,
			"evil.com": false, "evil.com:8765": false, "localhost.evil.com": false, "localhost.": false, "evil.localhost": false,
			"127.0.0.1.nip.io:8765": false, "127.0.0.1.evil.com": false, "0.0.0.0:8765": false, "127.0.0.2": false, "2130706433": false, "0x7f.1": false,
			"localhost:8765:evil.com": false, "localhost:port": false, "localhost:": false, "user@localhost": false, "[::1": false, "[::1]x": false,
			"[::ffff:127.0.0.1]": false, "::1": false, "127.0.0.1,evil.com": false, "": false, " localhost": false,
		}
		origins := map[string]bool{
			"": true, "http://localhost:8765": true, "http://127.0.0.1:8765": true, "http://[::1]:8765": true, "https://app.example.com": true,
			"null": false, "*": false, "http://evil.com": false, "http://localhost": false, "http://localhost:3000": false, "https://localhost:8765": false,
			"http://localhost:8765.evil.com": false, "http://localhost:8765/": false, "http://app.example.com": false, "https://app.example.com.evil.com": false,
			"file://": false, "http://evil.com http://localhost:8765": false,
		}
		tokens := map[string]bool{"Bearer " + secret: true, "bearer " + secret: true, "": false, "Bearer ": false, "Bearer x" + secret: false,
			"Basic " + secret: false, secret: false, "Bearer " + secret[:len(secret)-1]: false}
		for host, goodHost := range hosts {
			for origin, goodOrigin := range origins {
				for token, goodToken := range tokens {
					// Testing each combination of headers with all paths would take too long. So each combination is tested with
					// one path, and each path is used hundreds of times.
					turn++
					path := paths[turn%len(paths)]
					r := httptest.NewRequest("GET", "/", nil)
					r.URL.Path = path
					r.Host = host
					if origin != "" {
						r.Header.Set("Origin", origin)
					}
					if token != "" {
						r.Header.Set("Authorization", token)
					}
					ctx, cancel := context.WithCancel(r.Context())
					if path == "/sse" {
						cancel() // an accepted request for /sse would otherwise keep its stream open
					}
					w := httptest.NewRecorder()
					h.ServeHTTP(w, r.WithContext(ctx))
					cancel()
					refused := w.Code == http.StatusForbidden || w.Code == http.StatusUnauthorized
					want := !goodHost || !goodOrigin || !goodToken && path != "/healthz"
					if refused != want || (!goodHost || !goodOrigin) && w.Code != http.StatusForbidden {
						t.Fatalf("listening at %s: %s with Host %q, Origin %q, Authorization %q = %d, want it refused: %t", at.listen, path, host, origin, token, w.Code, want)
					}
					if w.Code == http.StatusUnauthorized && !strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Bearer ") {
						t.Fatalf("the header of a 401 is %v, want WWW-Authenticate", w.Header())
					}
					wantCORS := ""
					if goodHost && goodOrigin {
						wantCORS = origin
					}
					if got := w.Header().Get("Access-Control-Allow-Origin"); got != wantCORS {
						t.Fatalf("%s for Origin %q: Access-Control-Allow-Origin = %q, want %q", path, origin, got, wantCORS)
					}
					if w.Header().Get("X-Content-Type-Options") != "nosniff" || w.Header().Get("Cache-Control") != "no-store" {
						t.Fatalf("%s: the header is %v, want nosniff and no-store", path, w.Header())
					}
				}
			}
		}
	}
}

// TestDuplicateHeadersAreRefused checks that a request with two Origin or Authorization headers is refused.
func TestDuplicateHeadersAreRefused(t *testing.T) {
	h := newHTTP(t, "127.0.0.1:8765", nil)
	if w := do(h, "POST", "/mcp", "{}", "Origin: http://localhost:8765", "Origin: http://localhost:8765"); w.Code != http.StatusForbidden {
		t.Errorf("a request with two Origin headers: %d, want 403", w.Code)
	}
	r := httptest.NewRequest("GET", "/v1/info", nil)
	r.Host = "localhost"
	r.Header["Authorization"] = []string{"Bearer " + secret, "Bearer " + secret}
	w := httptest.NewRecorder()
	if h.ServeHTTP(w, r); w.Code != http.StatusUnauthorized {
		t.Errorf("a request with two Authorization headers: %d, want 401", w.Code)
	}
}

// TestPreflight checks that a browser's preflight request, which has no token, is accepted only from an allowed origin.
func TestPreflight(t *testing.T) {
	h := newHTTP(t, "127.0.0.1:8765", func(c *server.HTTPConfig) { c.AllowOrigins = []string{"https://app.example.com"} })
	w := do(h, "OPTIONS", "/mcp", "", "Authorization: ", "Origin: https://app.example.com", "Access-Control-Request-Method: POST")
	if w.Code != http.StatusNoContent || w.Header().Get("Access-Control-Allow-Origin") != "https://app.example.com" || !strings.Contains(w.Header().Get("Access-Control-Allow-Headers"), "Authorization") {
		t.Errorf("a preflight from an allowed origin: %d %v, want 204 with CORS headers", w.Code, w.Header())
	}
	w = do(h, "OPTIONS", "/mcp", "", "Authorization: ", "Origin: https://evil.com", "Access-Control-Request-Method: POST")
	if w.Code != http.StatusForbidden || w.Header().Get("Access-Control-Allow-Headers") != "" {
		t.Errorf("a preflight from another origin: %d %v, want 403 without CORS headers", w.Code, w.Header())
	}
}

// TestRoutes checks the routes, and which of them need a token.
func TestRoutes(t *testing.T) {
	notReady := func(c *server.HTTPConfig) { c.Sandboxes = fakeDaemon{ready: errors.New("secret text")} }
	noSSE := func(c *server.HTTPConfig) { c.SSE = false }
	for _, c := range []struct {
		name, method, path string
		change             func(*server.HTTPConfig)
		token              bool
		status             int
		says               string
	}{
		{"health without a token", "GET", "/healthz", nil, false, 200, "ok"},
		{"readiness without a token", "GET", "/readyz", nil, false, 200, "ready"},
		{"readiness of a daemon that is not ready, without the reason", "GET", "/readyz", notReady, false, 503, `{"status":"not ready"}`},
		{"another method of health without a token", "POST", "/healthz", nil, false, 401, ""},
		{"metrics without a token", "GET", "/metrics", nil, false, 401, ""},
		{"metrics", "GET", "/metrics", nil, true, 200, `dormouse_sandboxes{state="running"} 2`},
		{"the API gets the path unchanged, and no token", "GET", "/v1/sandboxes/a%2Fb/files/..%2Fx", nil, true, 200, `"token":""`},
		{"no stream on /mcp", "GET", "/mcp", nil, true, 405, ""},
		{"no session on /mcp", "DELETE", "/mcp", nil, true, 405, ""},
		{"a stream of SSE, which is off", "GET", "/sse", noSSE, true, 404, "--sse"},
		{"a message for SSE, which is off", "POST", "/message?sessionId=x", noSSE, true, 404, ""},
		{"a message to an unknown stream", "POST", "/message?sessionId=x", nil, true, 404, "no such stream"},
		{"a POST to open a stream", "POST", "/sse", nil, true, 405, ""},
		{"an unknown route", "GET", "/", nil, true, 404, "/mcp"},
		{"an encoded path of health without a token", "GET", "/%68ealthz", nil, false, 401, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var header []string
			if !c.token {
				header = []string{"Authorization: "}
			}
			w := do(newHTTP(t, "127.0.0.1:8765", c.change), c.method, c.path, "", header...)
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.says) || strings.Contains(w.Body.String(), "secret text") {
				t.Errorf("got %d %s, want %d and %q", w.Code, w.Body, c.status, c.says)
			}
			if w.Code == http.StatusServiceUnavailable && w.Header().Get("Retry-After") == "" {
				t.Error("a 503 has no Retry-After, want one")
			}
		})
	}
}

// TestBadConfig checks that NewHTTP refuses invalid configurations.
func TestBadConfig(t *testing.T) {
	token, _ := server.NewToken("default", secret)
	good := func() server.HTTPConfig {
		return server.HTTPConfig{Address: "127.0.0.1:1", Tokens: []server.Token{token}}
	}
	for name, change := range map[string]func(*server.HTTPConfig){
		"no token":            func(c *server.HTTPConfig) { c.Tokens = nil },
		"no port":             func(c *server.HTTPConfig) { c.Address = "localhost" },
		"any host":            func(c *server.HTTPConfig) { c.AllowHosts = []string{"*"} },
		"a URL as host":       func(c *server.HTTPConfig) { c.AllowHosts = []string{"https://a.example"} },
		"any origin":          func(c *server.HTTPConfig) { c.AllowOrigins = []string{"*"} },
		"the null origin":     func(c *server.HTTPConfig) { c.AllowOrigins = []string{"null"} },
		"an origin with path": func(c *server.HTTPConfig) { c.AllowOrigins = []string{"https://a.example/"} },
		"a wildcard origin":   func(c *server.HTTPConfig) { c.AllowOrigins = []string{"https://*.example"} },
	} {
		c := good()
		change(&c)
		if _, err := server.NewHTTP(server.New(nil, server.Config{}), c); err == nil {
			t.Errorf("NewHTTP() with %s = nil, want an error", name)
		}
	}
}

// FuzzHostOrigin checks that only allowed names and origins are admitted, however they are written.
func FuzzHostOrigin(f *testing.F) {
	f.Add("localhost:8765", "http://localhost:8765")
	f.Add("evil.com", "null")
	f.Add("[::1]:8765", "")
	f.Add("localhost:8765@evil.com", "http://localhost:8765#@evil.com")
	f.Add("\u212aocalhost", "HTTP://LOCALHOST:8765")
	h := newHTTP(f, "127.0.0.1:8765", nil)
	f.Fuzz(func(t *testing.T, host, origin string) {
		r := httptest.NewRequest("GET", "/healthz", nil)
		r.Host = host
		if origin != "" {
			r.Header.Set("Origin", origin)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		in := w.Code == http.StatusOK
		if !in && w.Code != http.StatusForbidden {
			t.Fatalf("Host %q, Origin %q: %d, want 200 or 403", host, origin, w.Code)
		}
		name := strings.ToLower(host)
		if h, _, err := net.SplitHostPort(host); err == nil {
			name = strings.ToLower(h)
		}
		name = strings.Trim(name, "[]")
		ours := name == "localhost" || name == "127.0.0.1" || name == "::1"
		o := strings.ToLower(origin)
		oursToo := o == "" || o == "http://localhost:8765" || o == "http://127.0.0.1:8765" || o == "http://[::1]:8765"
		if in && (!ours || !oursToo) {
			t.Fatalf("a request with Host %q and Origin %q was admitted, want 403", host, origin)
		}
	})
}
