package server

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/dormouse-sandbox/dormouse/server/spool"
)

// response is what every answer over HTTP has in common: headers that no handler
// decides, and a deadline for clients that don't read. It is an http.Flusher and mcp-go's
// HTTPResponseWriter.
type response struct {
	http.ResponseWriter
	control *http.ResponseController
	origin  string // allowed, or empty
	status  int

	preflight bool // a browser asks what a page may send

	to  *message      // what is answered; nil: no message
	box *spool.Outbox // what the answer has instead of long strings; may be nil
}

// writePatience is how long a client may take to accept a piece of an answer.
const writePatience = time.Minute

func newResponse(w http.ResponseWriter) *response {
	return &response{ResponseWriter: w, control: http.NewResponseController(w)}
}

// WriteHeader sets what must be so, whatever a handler wrote: mcp-go lets any web
// page read its streams.
func (r *response) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	h := r.Header()
	for name := range h {
		if strings.HasPrefix(name, "Access-Control-") {
			h.Del(name)
		}
	}
	if r.origin != "" {
		h.Set("Access-Control-Allow-Origin", r.origin)
		h.Set("Access-Control-Expose-Headers", "WWW-Authenticate, Retry-After")
		h.Add("Vary", "Origin")
	}
	if r.preflight {
		h.Set("Access-Control-Allow-Methods", "GET, POST, PUT, PATCH, DELETE")
		h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Accept, Range, Last-Event-ID, Mcp-Session-Id, Mcp-Protocol-Version, Mcp-Method, Mcp-Name")
		h.Set("Access-Control-Max-Age", "600")
	}
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	if status == http.StatusServiceUnavailable && h.Get("Retry-After") == "" {
		h.Set("Retry-After", "1")
	}
	r.extend()
	r.ResponseWriter.WriteHeader(status)
}

// Write writes a part of an answer, with what the outbox has for it. mcp-go writes a message in one
// piece, so no token is cut.
func (r *response) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.WriteHeader(http.StatusOK)
	}
	answer := p
	if r.to != nil {
		answer = r.to.exactly(p)
	}
	if err := r.box.Send(timely{r}, answer); err != nil {
		return 0, err
	}
	return len(p), nil
}

// timely writes what is written as it is, and gives each write its time.
type timely struct{ r *response }

func (t timely) Write(p []byte) (int, error) {
	t.r.extend()
	return t.r.ResponseWriter.Write(p)
}

// Flush is for http.Flusher.
func (r *response) Flush() {
	if r.status == 0 {
		r.WriteHeader(http.StatusOK)
	}
	r.extend()
	_ = r.control.Flush() // the next write finds out
}

// CanStream is for mcp-go.
func (r *response) CanStream() bool { return true }

// Unwrap is for http.ResponseController.
func (r *response) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// extend gives the next write its time. Without it the deadline of an earlier answer on
// the same connection would hold.
func (r *response) extend() { _ = r.control.SetWriteDeadline(time.Now().Add(writePatience)) }

// fail answers with an error as JSON, as the v1 API has them.
func fail(w http.ResponseWriter, status int, kind, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	var body struct {
		Error struct {
			Kind    string `json:"kind"`
			Message string `json:"message"`
		} `json:"error"`
	}
	body.Error.Kind, body.Error.Message = kind, message
	_ = json.NewEncoder(w).Encode(body) // a client that has gone needs no answer
}
