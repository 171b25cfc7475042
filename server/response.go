package server

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/dormouse-sandbox/dormouse/server/spool"
)

// response is the http.ResponseWriter of every HTTP answer. It sets the headers that handlers must not choose, and a write
// deadline for clients that don't read. It implements http.Flusher and mcp-go's HTTPResponseWriter.
type response struct {
	http.ResponseWriter
	control *http.ResponseController
	origin  string // the request's allowed Origin header; empty: none
	status  int    // the status sent; 0: none yet

	preflight bool // the answer is to a CORS preflight request

	to     *message      // the message that is answered; nil: the request contains no message
	outbox *spool.Outbox // the files whose placeholders the answer contains; may be nil

	messages *messageCount // counts the calls of Write; nil: they are not counted
}

// writePatience is how long a client may take to accept one write.
const writePatience = time.Minute

func newResponse(w http.ResponseWriter) *response {
	return &response{ResponseWriter: w, control: http.NewResponseController(w)}
}

// WriteHeader sends the header. It replaces the CORS headers that a handler has set by those of the guard, because mcp-go
// allows every web page to read its streams.
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

// Write writes a part of an answer, with the files of r.outbox in place of their placeholders. mcp-go writes each message with
// a single call, so a placeholder is never split between two calls.
func (r *response) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.WriteHeader(http.StatusOK)
	}
	if r.messages != nil {
		defer r.messages.add()
	}
	answer := p
	if r.to != nil {
		answer = r.to.restoreID(p)
	}
	if err := r.outbox.Send(deadlineWriter{r}, answer); err != nil {
		return 0, err
	}
	return len(p), nil
}

// deadlineWriter writes to the client without changes, and extends the deadline before each write.
type deadlineWriter struct{ r *response }

func (t deadlineWriter) Write(p []byte) (int, error) {
	t.r.extend()
	return t.r.ResponseWriter.Write(p)
}

// Flush implements http.Flusher.
func (r *response) Flush() {
	if r.status == 0 {
		r.WriteHeader(http.StatusOK)
	}
	r.extend()
	_ = r.control.Flush() // on failure the next write fails, too
}

// CanStream implements mcp-go's HTTPResponseWriter.
func (r *response) CanStream() bool { return true }

// Unwrap is called by http.ResponseController.
func (r *response) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// extend sets the deadline of the next write to writePatience from now. Without it, the deadline of an earlier answer on
// the same connection would still apply.
func (r *response) extend() { _ = r.control.SetWriteDeadline(time.Now().Add(writePatience)) }

// fail answers with a JSON error in the format of the v1 API.
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
	_ = json.NewEncoder(w).Encode(body) // Encode fails only if the client has disconnected
}
