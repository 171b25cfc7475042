package server

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"

	"github.com/mark3labs/mcp-go/mcp"
	mcpserver "github.com/mark3labs/mcp-go/server"

	"github.com/dormouse-sandbox/dormouse/server/spool"
)

// newStreamable returns mcp-go's streamable HTTP server, without sessions. With sessions, mcp-go would keep a session forever
// for every initialize request, and a notification for one call could be sent to another call of its session. Dormouse does
// not need sessions.
func newStreamable(s *Server) *mcpserver.StreamableHTTPServer {
	return mcpserver.NewStreamableHTTPServer(s.mcp,
		mcpserver.WithStateLess(true),
		mcpserver.WithDisableStreaming(true), // no GET streams: every message that the server sends belongs to a request
		mcpserver.WithStreamableHTTPLogger(s.log),
	)
}

// serveStreamable serves /mcp: MCP over streamable HTTP, for all protocol versions.
func (h *HTTP) serveStreamable(w *response, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		fail(w, http.StatusMethodNotAllowed, "invalid", "send messages with POST: this server has no stream to open with GET, and no session to end with DELETE")
		return
	}
	m, ok := h.readMessage(w, r)
	if !ok {
		return
	}
	if m == nil || m.method == "notifications/cancelled" {
		// Cancellations are ignored. mcp-go finds the call by session and id, so without sessions it could cancel the call
		// of another client. A client cancels by closing the request's connection, as protocol version 2026-07-28 specifies.
		w.WriteHeader(http.StatusAccepted)
		return
	}
	defer m.close()
	outbox := h.server.config.Spool.NewOutbox()
	defer outbox.Close()
	w.to, w.outbox, w.messages = m, outbox, newMessageCount()
	defer func() {
		if p := recover(); p != nil {
			h.answerPanic(w, m, p)
		}
	}()
	header := r.Header.Clone()
	header.Del(mcpserver.HeaderKeySessionID)
	ctx := withMessages(h.server.withOutbox(withLong(r.Context(), m), outbox), w.messages)
	h.streamable.Handle(w, &mcpserver.HTTPRequest{Method: r.Method, URL: r.URL, Header: header, Body: m.raw, Context: ctx})
}

// readMessage reads the message in the body of r. The message is nil if it needs no answer. If the body is not a valid
// message, readMessage answers with an error and reports false. The caller must close the message.
func (h *HTTP) readMessage(w http.ResponseWriter, r *http.Request) (*message, bool) {
	media, options, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if charset := asciiLower(options["charset"]); err != nil || media != "application/json" || charset != "" && charset != "utf-8" {
		fail(w, http.StatusUnsupportedMediaType, "invalid", "send JSON, with the header Content-Type: application/json")
		return nil, false
	}
	m, refused, err := h.readBody(r.Body)
	if err != nil {
		status, text := http.StatusBadRequest, "the body of the request is incomplete"
		switch {
		case errors.Is(err, errBodiesBusy):
			h.config.Metrics.refused("busy")
			status, text = http.StatusServiceUnavailable, errBodiesBusy.Message
		case errors.Is(err, os.ErrDeadlineExceeded):
			status, text = http.StatusRequestTimeout, "the body of the request arrived too slowly"
		}
		w.Header().Set("Connection", "close")
		writeRejection(w, status, rejection{code: mcp.INVALID_REQUEST, text: text})
		return nil, false
	}
	if refused != nil {
		switch {
		case refused.status == 0:
			refused.status = http.StatusBadRequest
		case refused.status == http.StatusServiceUnavailable:
			h.config.Metrics.refused("busy")
		case refused.status == http.StatusRequestEntityTooLarge:
			w.Header().Set("Connection", "close")
		}
		if refused.cause != nil {
			h.log.Error("a message was refused because it could not be stored", "error", refused.cause)
		}
		writeRejection(w, refused.status, *refused)
		return nil, false
	}
	return m, true
}

// readBody reads a message. If it is longer than MaxBody, readBody reads and discards up to MaxBody further bytes, because
// a client that sends its whole request before it reads would otherwise not get the answer.
func (h *HTTP) readBody(r io.Reader) (*message, *rejection, error) {
	raw, err := readAll(io.LimitReader(r, min(spool.Long, h.config.MaxBody+1)))
	switch {
	case err != nil:
		return nil, nil, err
	case len(raw) == 0:
		return nil, &rejection{code: mcp.PARSE_ERROR, text: "the request has no body"}, nil
	case len(raw) < spool.Long && int64(len(raw)) <= h.config.MaxBody: // nearly all messages are this short
		m, refused := parse(raw)
		return m, refused, nil
	}
	long := h.server.config.Spool.NewMessage(spool.Limits{Message: h.config.MaxBody})
	long.Write(raw)
	piece := make([]byte, 256<<10)
	for err == nil && long.Read() <= 2*h.config.MaxBody {
		var n int
		n, err = r.Read(piece)
		long.Write(piece[:n])
	}
	if err != nil && err != io.EOF {
		long.Close()
		return nil, nil, err
	}
	m, refused := parseSpooled(long)
	return m, refused, nil
}

// readAll reads a small body. Its buffer grows with the bytes that arrive, so a client gets no memory for bytes that it
// does not send.
func readAll(r io.Reader) ([]byte, error) {
	b := make([]byte, 0, 1024)
	for {
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return nil, err
		}
		if len(b) == cap(b) {
			b = append(make([]byte, 0, 2*cap(b)), b...)
		}
	}
}

func (h *HTTP) answerPanic(w *response, m *message, p any) {
	h.server.logPanic(m, p)
	if w.status != 0 {
		panic(http.ErrAbortHandler) // the answer has begun, so the connection must be broken
	}
	writeRejection(w, http.StatusInternalServerError, rejection{id: m.id, code: mcp.INTERNAL_ERROR, text: "internal error"})
}

func writeRejection(w http.ResponseWriter, status int, r rejection) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(r.response()) // Encode fails only if the client has disconnected
}
