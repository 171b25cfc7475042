package server

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/dormouse-sandbox/dormouse/server/spool"
)

// ServeHTTP is the guard in front of every route: nothing behind it sees a request of
// whom it did not let in. What it lets in is bounded in number, in size and in time.
func (h *HTTP) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	begun, w := time.Now(), newResponse(rw)
	defer func() {
		p := recover()
		if p != nil && p != http.ErrAbortHandler {
			number := rand.Text()[:8]
			h.log.Error("a request panicked", "error_id", number, "route", route(r), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			if w.status == 0 {
				fail(w, http.StatusInternalServerError, "internal", "Dormouse had an internal error (number "+number+" in its log)")
			} else {
				p = http.ErrAbortHandler // too late for an answer: the client must see that it is not whole
			}
		}
		w.extend() // for what net/http itself still writes
		h.config.Metrics.request(route(r), w.status, time.Since(begun), longLived(r))
		// No header, no query, no content.
		h.log.Debug("http", "method", fmt.Sprintf("%+.20q", r.Method), "route", route(r), "status", w.status, "took", time.Since(begun))
		if p == http.ErrAbortHandler {
			panic(p)
		}
	}()

	if refused := h.strangers(w, r); refused {
		return
	}
	if r.Method == http.MethodOptions && w.origin != "" && r.Header.Get("Access-Control-Request-Method") != "" {
		w.preflight = true // it has no token yet
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if h.public(w, r) {
		return
	}
	name, ok := bearer(h.config.Tokens, r.Header.Values("Authorization"))
	if !ok {
		challenge := `Bearer realm="dormouse"`
		if r.Header.Get("Authorization") != "" {
			challenge += `, error="invalid_token"`
		}
		w.Header().Set("WWW-Authenticate", challenge)
		h.refuse(w, http.StatusUnauthorized, "token", "this needs the header Authorization, with Bearer and the token; `dormouse serve` says at its start which file has it")
		return
	}
	if len(r.Header.Values("Content-Encoding")) > 0 {
		h.refuse(w, http.StatusUnsupportedMediaType, "encoding", "bodies must not be compressed: leave out Content-Encoding")
		return
	}
	h.admit(w, r, name)
}

// strangers turns away who calls this machine by a name that it does not have, or comes
// from a web page that is not ours.
func (h *HTTP) strangers(w *response, r *http.Request) bool {
	if !h.names.host(r.Host) {
		h.refuse(w, http.StatusForbidden, "host", "this name is not one of this server's; if it should be, start dormouse serve with --allow-host")
		return true
	}
	switch origins := r.Header.Values("Origin"); {
	case len(origins) == 0:
	case len(origins) == 1 && h.names.origin(origins[0]):
		w.origin = origins[0]
	default:
		h.refuse(w, http.StatusForbidden, "origin", "web pages of this origin may not call this server; if they should, start dormouse serve with --allow-origin")
		return true
	}
	return false
}

// admit serves a request of a token's bearer, when there is room for it.
func (h *HTTP) admit(w *response, r *http.Request, name string) {
	slots := h.calls
	if longLived(r) {
		slots = h.streams
	}
	free, ok := slots.acquire(r.Context(), name)
	if !ok {
		h.refuse(w, http.StatusServiceUnavailable, "busy", fmt.Sprintf("%d requests are in flight, and more are not taken: wait for answers", slots.inUse()))
		return
	}
	defer free()

	b := &body{ReadCloser: r.Body, control: w.control, begun: time.Now(), patience: h.config.BodyPatience}
	if !streamsIn(r) {
		b.budget = h.bodies
		if h.server.config.Spool != nil {
			b.most = spool.MaxKept // the rest of a message is on disk, and the API's bodies are smaller
		}
	}
	if !b.begin(min(r.ContentLength, h.config.MaxBody)) {
		h.refuse(w, http.StatusServiceUnavailable, "busy", errBodiesBusy.Message)
		return
	}
	defer b.release()
	r.Body = b
	r = r.WithContext(context.WithValue(r.Context(), bearerKey{}, name))
	r.Header.Del("Authorization") // nobody behind needs it
	h.route(w, r)
}

// refuse answers whom the guard does not let in.
func (h *HTTP) refuse(w *response, status int, why, message string) {
	h.config.Metrics.refused(why)
	h.log.Debug("request refused", "why", why)
	fail(w, status, map[int]string{
		http.StatusForbidden: "forbidden", http.StatusUnauthorized: "unauthorized", http.StatusServiceUnavailable: "unavailable", http.StatusUnsupportedMediaType: "invalid",
	}[status], message)
}

// bearerKey is under which a request's context has the name of its token.
type bearerKey struct{}

func bearerOf(ctx context.Context) string {
	name, _ := ctx.Value(bearerKey{}).(string)
	return name
}

// longLived are requests that last as long as the client wants.
func longLived(r *http.Request) bool {
	return r.URL.Path == "/sse" || strings.HasSuffix(r.URL.Path, "/events")
}

// streamsIn are requests whose bodies go by and are not kept.
func streamsIn(r *http.Request) bool {
	return r.Method == http.MethodPut && strings.HasPrefix(r.URL.Path, "/v1/sandboxes/")
}

// route is the name of a request's route in logs and metrics.
func route(r *http.Request) string {
	switch p := r.URL.Path; {
	case p == "/mcp", p == "/sse", p == "/message", p == "/metrics", p == "/healthz", p == "/readyz":
		return p
	case strings.HasPrefix(p, "/v1/"):
		return "/v1"
	}
	return "other"
}
