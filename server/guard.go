package server

import (
	"context"
	"crypto/rand"
	"fmt"
	"math"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
	"github.com/dormouse-sandbox/dormouse/server/spool"
)

// ServeHTTP checks every request before a handler runs: the Host and Origin headers, the token, and the limits on the number
// of requests, on their size and on their time. Only CORS preflight requests and the routes of servePublic need no token.
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
				p = http.ErrAbortHandler // the panic below breaks the connection, so the client sees that the answer is incomplete
			}
		}
		w.extend() // net/http may write the end of the answer after ServeHTTP returns, and needs a new deadline for that
		h.config.Metrics.request(route(r), w.status, time.Since(begun), longLived(r))
		// Headers, query and content are not logged: they may be secret.
		h.log.Debug("http", "method", fmt.Sprintf("%+.20q", r.Method), "route", route(r), "status", w.status, "took", time.Since(begun))
		if p == http.ErrAbortHandler {
			panic(p)
		}
	}()

	conn := connOf(r)
	if conn != nil && !conn.trusted() {
		w.Header().Set("Connection", "close") // removed below if the request has a valid token
	}
	if refused := h.refuseHostOrOrigin(w, r); refused {
		return
	}
	if r.Method == http.MethodOptions && w.origin != "" && r.Header.Get("Access-Control-Request-Method") != "" {
		w.preflight = true // browsers send no token with a preflight request
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if h.servePublic(w, r) {
		return
	}
	token, ok := bearer(h.tokens(), r.Header.Values("Authorization"))
	if !ok {
		challenge := `Bearer realm="dormouse"`
		if r.Header.Get("Authorization") != "" {
			challenge += `, error="invalid_token"`
		}
		w.Header().Set("WWW-Authenticate", challenge)
		h.refuse(w, http.StatusUnauthorized, "token", "the request needs the header Authorization: Bearer <token>; `dormouse serve` prints at its start which file contains the token")
		return
	}
	if conn != nil {
		if !conn.trust(token.Owner()) {
			w.Header().Set("Connection", "close")
			h.refuse(w, http.StatusServiceUnavailable, "busy", "this token has too many connections: close some, or send several requests on one connection")
			return
		}
		w.Header().Del("Connection")
	}
	if len(r.Header.Values("Content-Encoding")) > 0 {
		h.refuse(w, http.StatusUnsupportedMediaType, "encoding", "bodies must not be compressed: leave out Content-Encoding")
		return
	}
	h.admit(w, r, token)
}

// refuseHostOrOrigin refuses a request whose Host or Origin header is not allowed, and reports whether it did. Otherwise it
// sets w.origin to the Origin header.
func (h *HTTP) refuseHostOrOrigin(w *response, r *http.Request) bool {
	if !h.names.host(r.Host) {
		h.refuse(w, http.StatusForbidden, "host", "the Host header is not a name of this server; to allow it, start dormouse serve with --allow-host")
		return true
	}
	switch origins := r.Header.Values("Origin"); {
	case len(origins) == 0:
	case len(origins) == 1 && h.names.origin(origins[0]):
		w.origin = origins[0]
	default:
		h.refuse(w, http.StatusForbidden, "origin", "web pages of this origin may not call this server; to allow them, start dormouse serve with --allow-origin")
		return true
	}
	return false
}

// admit serves a request with a valid token if the limits allow it, and refuses it otherwise.
func (h *HTTP) admit(w *response, r *http.Request, token Token) {
	if wait := h.rates.take(token.Name); wait > 0 {
		h.refuseRate(w, r, wait)
		return
	}
	slots := h.calls
	switch {
	case longLived(r):
		slots = h.streams
	case r.URL.Path == "/metrics":
		slots = h.scrapes
	}
	place, ok := newRequestSlot(r.Context(), slots, h.waits, token.Owner())
	if !ok {
		h.refuse(w, http.StatusServiceUnavailable, "busy", fmt.Sprintf("%d requests are in flight, which is the limit: wait for answers", slots.inUse()))
		return
	}
	defer place.leave()

	b := &body{ReadCloser: r.Body, control: w.control, begun: time.Now(), patience: h.config.BodyPatience, owner: token.Owner()}
	if !isUpload(r) {
		b.budget = h.bodies
		if h.server.config.Spool != nil {
			b.maximum = spool.MaxKept // the rest of a longer MCP message is on disk, and bodies of the REST API are smaller
		}
	}
	if !b.begin(min(r.ContentLength, h.config.MaxBody)) {
		h.refuse(w, http.StatusServiceUnavailable, "busy", errBodiesBusy.Message)
		return
	}
	defer b.release()
	r.Body = b
	ctx, end := h.withRevocation(r.Context(), token)
	defer end()
	// The token alone determines the owner. No header, field or parameter can change it.
	ctx = sandbox.WithOwner(context.WithValue(ctx, bearerKey{}, token.Name), token.Owner())
	ctx = wire.WithWaiting(ctx, place.wait, place.resume)
	ctx, release := h.server.answers.WithBudget(ctx)
	defer release()
	r = r.WithContext(ctx)
	r.Header.Del("Authorization") // the handlers don't need the secret
	h.route(w, r)
}

// tokens returns the tokens that are valid now.
func (h *HTTP) tokens() []Token {
	if h.config.TokenFile != nil {
		return h.config.TokenFile.Tokens()
	}
	return h.config.Tokens
}

// tokenCheck is the interval at which the token of a running request is checked again.
const tokenCheck = time.Second

// withRevocation returns a context that ends at most about tokenCheck after the token is revoked. The caller must defer end.
// If the token was revoked, end panics with http.ErrAbortHandler, which breaks the connection, so that the client does not
// take a truncated answer for a complete one.
func (h *HTTP) withRevocation(ctx context.Context, token Token) (_ context.Context, end func()) {
	if h.config.TokenFile == nil {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	revoked := false
	var watching sync.WaitGroup
	watching.Go(func() {
		check := time.NewTicker(tokenCheck)
		defer check.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-check.C:
				if revoked = !slices.Contains(h.tokens(), token); revoked {
					cancel()
					return
				}
			}
		}
	})
	return ctx, func() {
		cancel()
		watching.Wait()
		if revoked {
			panic(http.ErrAbortHandler)
		}
	}
}

// refuseRate refuses a request that exceeds the token's rate: with a JSON-RPC error on the MCP routes, and with an API error
// on all others. wait is the time after which the client may try again.
func (h *HTTP) refuseRate(w *response, r *http.Request, wait time.Duration) {
	says := fmt.Sprintf("this token may send %g requests a second and has sent more: wait %s, then try again", h.config.Rate, wait.Round(time.Millisecond))
	w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
	if p := r.URL.Path; r.Method == http.MethodPost && (p == "/mcp" || p == "/message") {
		h.config.Metrics.refused("rate")
		writeRejection(w, http.StatusTooManyRequests, rejection{code: busy, text: says})
		return
	}
	h.refuse(w, http.StatusTooManyRequests, "rate", says)
}

// refuse sends an API error to a client whose request the guard does not admit. why is the reason, as a log attribute and
// as a metrics label. message is the text for the client.
func (h *HTTP) refuse(w *response, status int, why, message string) {
	h.config.Metrics.refused(why)
	h.log.Debug("request refused", "why", why)
	fail(w, status, map[int]string{
		http.StatusForbidden: "forbidden", http.StatusUnauthorized: "unauthorized", http.StatusServiceUnavailable: "unavailable", http.StatusTooManyRequests: "limit", http.StatusUnsupportedMediaType: "invalid",
	}[status], message)
}

// bearerKey is the context key of the name of a request's token.
type bearerKey struct{}

func bearerOf(ctx context.Context) string {
	name, _ := ctx.Value(bearerKey{}).(string)
	return name
}

// longLived reports whether r opens a stream, which can last until the client closes it.
func longLived(r *http.Request) bool {
	return r.URL.Path == "/sse" || strings.HasSuffix(r.URL.Path, "/events")
}

// isUpload reports whether the body of r is an uploaded file, which is forwarded in pieces and not kept in memory.
func isUpload(r *http.Request) bool {
	return r.Method == http.MethodPut && strings.HasPrefix(r.URL.Path, "/v1/sandboxes/")
}

// route returns the name of a request's route for logs and metrics. The set of names is fixed, so that clients cannot
// create new metrics.
func route(r *http.Request) string {
	switch p := r.URL.Path; {
	case p == "/mcp", p == "/sse", p == "/message", p == "/metrics", p == "/healthz", p == "/readyz":
		return p
	case strings.HasPrefix(p, "/v1/"):
		return "/v1"
	}
	return "other"
}
