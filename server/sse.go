package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/server/spool"
)

// This file is the SSE transport of protocol version 2024-11-05. A client opens a stream at /sse. The first event names the
// URL to which the client posts its messages; the answers are sent on the stream.
//
// The transport uses the type connection, like stdio, and not mcp-go's SSE server, because mcp-go's server sends the text of
// a panic to clients, limits neither messages nor calls, cannot cancel calls, and loses notifications that are sent right
// before a result.

// sseStream is the open stream of one client.
type sseStream struct {
	owner string // the name of the token with which the client opened the stream
	*connection

	ending sync.RWMutex // held for reading while a message is dispatched
	ended  bool         // no more messages are dispatched; guarded by ending
}

// sseHeartbeat is the interval of comments on a stream. They keep proxies from closing an idle stream.
const sseHeartbeat = 15 * time.Second

func (h *HTTP) serveSSE(w *response, r *http.Request) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		fail(w, http.StatusMethodNotAllowed, "invalid", "open a stream with GET; streamable HTTP is at /mcp")
		return
	}
	if h.stopping.Err() != nil {
		fail(w, http.StatusServiceUnavailable, "unavailable", "the server is stopping")
		return
	}
	c, err := h.server.open(r.Context(), func(b []byte, outbox *spool.Outbox) error {
		return sendEvent(w, "message", b, outbox)
	})
	if err != nil {
		panic(err) // this cannot happen: open fails only for a duplicate session id, and session ids are random
	}
	stream := &sseStream{owner: bearerOf(r.Context()), connection: c}
	id := rand.Text()
	h.mu.Lock()
	h.sse[id] = stream
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		delete(h.sse, id)
		h.mu.Unlock()
		stream.end(h.server.config.Grace)
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	if stream.sendBetween(func() error { return sendEvent(w, "endpoint", []byte("/message?sessionId="+id), nil) }) != nil {
		return
	}

	beat := time.NewTicker(sseHeartbeat)
	defer beat.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-h.stopping.Done():
			return
		case <-beat.C:
			if stream.sendBetween(func() error { return sendRaw(w, []byte(": alive\n\n")) }) != nil {
				return
			}
		}
	}
}

// sendBetween calls send, which writes something that is not a message. It holds s.writing, so that send does not write into
// the middle of a message.
func (s *sseStream) sendBetween(send func() error) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return send()
}

// end ends the stream. From then on messages are refused. If the client is still connected, end waits up to grace for the
// answers to the calls in flight. Then it cancels the remaining calls and waits up to grace for their end. After end has
// returned, nothing is written to the client.
func (s *sseStream) end(grace time.Duration) {
	s.ending.Lock()
	s.ended = true
	s.ending.Unlock()
	s.awaitCalls(s.ctx, grace)
	s.close()
	s.awaitCalls(context.WithoutCancel(s.ctx), grace)
	s.writing.Lock()
	defer s.writing.Unlock()
	s.send = func([]byte, *spool.Outbox) error { return http.ErrHandlerTimeout }
}

// serveMessage serves /message, to which the client of a stream posts its messages.
func (h *HTTP) serveMessage(w *response, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		fail(w, http.StatusMethodNotAllowed, "invalid", "send messages with POST")
		return
	}
	h.mu.Lock()
	stream := h.sse[r.URL.Query().Get("sessionId")]
	h.mu.Unlock()
	if stream == nil || stream.owner != bearerOf(r.Context()) {
		fail(w, http.StatusNotFound, "not_found", "there is no such stream: open one at /sse")
		return
	}
	m, ok := h.readMessage(w, r)
	if !ok {
		return
	}
	if m == nil {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	taken := false
	defer func() {
		if !taken {
			m.close()
		}
	}()
	stream.ending.RLock()
	defer stream.ending.RUnlock()
	if stream.ended {
		fail(w, http.StatusNotFound, "not_found", "the stream has ended: open another at /sse")
		return
	}
	// The call outlasts this request. The message stays in memory and on disk until the call has ended.
	held := h.takeOverBudget(r)
	taken = true
	stream.dispatch(stream.ctx, m, func() { m.close(); held() })
	w.WriteHeader(http.StatusAccepted)
}

// takeOverBudget transfers the bytes that the body of r has taken from the budget to the caller, which must call release to
// give them back.
func (h *HTTP) takeOverBudget(r *http.Request) (release func()) {
	b, ok := r.Body.(*body)
	if !ok {
		return func() {}
	}
	n := b.held
	b.held = 0
	return func() { h.bodies.Give(b.owner, n) }
}

// sendEvent writes a server-sent event, with the files of outbox in place of their placeholders in data. The event has only one
// data line: data must not contain newlines, and encoded JSON and base64 contain none.
func sendEvent(w *response, name string, data []byte, outbox *spool.Outbox) error {
	var b bytes.Buffer
	b.Grow(len(data) + 64)
	fmt.Fprintf(&b, "event: %s\ndata: ", name)
	b.Write(data)
	b.WriteString("\n\n")
	if err := outbox.Send(w, b.Bytes()); err != nil {
		return err
	}
	return w.control.Flush()
}

func sendRaw(w *response, b []byte) error {
	if _, err := w.Write(b); err != nil {
		return err
	}
	return w.control.Flush()
}
