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

// The transport of protocol version 2024-11-05: a client opens a stream at /sse, hears
// there where to post its messages, and gets the answers on the stream. It is ours on the
// same ground as stdio, because mcp-go's sends a panic's text to clients, bounds neither
// messages nor calls, cannot cancel, and loses notifications that precede a result.

// sseStream is one client.
type sseStream struct {
	owner string // the name of the token that opened it
	*connection

	ending sync.RWMutex // held for reading while a message is dispatched
	ended  bool
}

// sseHeartbeat keeps proxies from closing a quiet stream.
const sseHeartbeat = 15 * time.Second

func (h *HTTP) serveSSE(w *response, r *http.Request) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		fail(w, http.StatusMethodNotAllowed, "invalid", "a stream is opened by GET; streamable HTTP is at /mcp")
		return
	}
	if h.stopping.Err() != nil {
		fail(w, http.StatusServiceUnavailable, "unavailable", "the server is stopping")
		return
	}
	c, err := h.server.open(r.Context(), func(b []byte, box *spool.Outbox) error {
		return sendEvent(w, "message", b, box)
	})
	if err != nil {
		panic(err) // session ids are random: two are never the same
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

// sendBetween sends what is no message.
func (s *sseStream) sendBetween(send func() error) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return send()
}

// end takes no more messages, lets the calls in flight be answered if somebody is still
// there to hear it, and writes nothing after it has returned.
func (s *sseStream) end(grace time.Duration) {
	s.ending.Lock()
	s.ended = true
	s.ending.Unlock()
	s.drained(s.ctx, grace)
	s.close()
	s.drained(context.WithoutCancel(s.ctx), grace)
	s.writing.Lock()
	defer s.writing.Unlock()
	s.send = func([]byte, *spool.Outbox) error { return http.ErrHandlerTimeout }
}

// serveMessage is where a client of a stream posts its messages.
func (h *HTTP) serveMessage(w *response, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		fail(w, http.StatusMethodNotAllowed, "invalid", "messages are sent by POST")
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
	// The message is in memory, and on disk, until its call has ended, longer than this request.
	held := h.keep(r)
	taken = true
	stream.dispatch(stream.ctx, m, func() { m.close(); held() })
	w.WriteHeader(http.StatusAccepted)
}

// keep moves what a request's body holds of the budget to who calls the function that it
// returns.
func (h *HTTP) keep(r *http.Request) (release func()) {
	b, ok := r.Body.(*body)
	if !ok {
		return func() {}
	}
	n := b.held
	b.held = 0
	return func() { h.bodies.Give(b.owner, n) }
}

// sendEvent writes a server-sent event. data, and what box has for it, have no line ends,
// because they are JSON.
func sendEvent(w *response, name string, data []byte, box *spool.Outbox) error {
	var b bytes.Buffer
	b.Grow(len(data) + 64)
	fmt.Fprintf(&b, "event: %s\ndata: ", name)
	b.Write(data)
	b.WriteString("\n\n")
	if err := box.Send(w, b.Bytes()); err != nil {
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
