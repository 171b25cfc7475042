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

// newStreamable has no sessions: mcp-go would keep one for every initialize for ever, and
// share one's notifications among the calls of a client. Nothing here needs one.
func newStreamable(s *Server) *mcpserver.StreamableHTTPServer {
	return mcpserver.NewStreamableHTTPServer(s.mcp,
		mcpserver.WithStateLess(true),
		mcpserver.WithDisableStreaming(true), // of GET: we send nothing that was not asked for
		mcpserver.WithStreamableHTTPLogger(s.log),
	)
}

// serveStreamable is /mcp: MCP over streamable HTTP, in every era of the protocol.
func (h *HTTP) serveStreamable(w *response, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		fail(w, http.StatusMethodNotAllowed, "invalid", "MCP is spoken by POST here: there is no stream to listen to, and no session to end")
		return
	}
	m, ok := h.readMessage(w, r)
	if !ok {
		return
	}
	if m == nil || m.method == "notifications/cancelled" {
		// mcp-go knows calls by session and id, and there are no sessions: it would cancel
		// another client's call. Who hangs up cancels, as 2026-07-28 has it.
		w.WriteHeader(http.StatusAccepted)
		return
	}
	defer m.close()
	box := h.server.config.Spool.NewOutbox()
	defer box.Close()
	w.to, w.box = m, box
	defer func() {
		if p := recover(); p != nil {
			h.answerPanic(w, m, p)
		}
	}()
	header := r.Header.Clone()
	header.Del(mcpserver.HeaderKeySessionID)
	h.streamable.Handle(w, &mcpserver.HTTPRequest{Method: r.Method, URL: r.URL, Header: header, Body: m.raw, Context: h.server.withOutbox(withLong(r.Context(), m), box)})
}

// readMessage reads the one message of a request. It returns nil for what needs no
// answer, and false when it has answered already.
func (h *HTTP) readMessage(w http.ResponseWriter, r *http.Request) (*message, bool) {
	media, options, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if charset := asciiLower(options["charset"]); err != nil || media != "application/json" || charset != "" && charset != "utf-8" {
		fail(w, http.StatusUnsupportedMediaType, "invalid", "send JSON, with the header Content-Type: application/json")
		return nil, false
	}
	m, refused, err := h.readBody(r.Body)
	if err != nil {
		status, text := http.StatusBadRequest, "the request's body could not be read to its end"
		switch {
		case errors.Is(err, errBodiesBusy):
			h.config.Metrics.refused("busy")
			status, text = http.StatusServiceUnavailable, errBodiesBusy.Message
		case errors.Is(err, os.ErrDeadlineExceeded):
			status, text = http.StatusRequestTimeout, "the request's body came too slowly"
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
			h.log.Error("a message cannot be taken", "error", refused.cause)
		}
		writeRejection(w, refused.status, *refused)
		return nil, false
	}
	return m, true
}

// readBody reads a message. What is longer than a message may be goes by for a while, so that a
// client which writes before it reads gets its answer.
func (h *HTTP) readBody(r io.Reader) (*message, *rejection, error) {
	raw, err := readAll(io.LimitReader(r, min(spool.Long, h.config.MaxBody+1)))
	switch {
	case err != nil:
		return nil, nil, err
	case len(raw) == 0:
		return nil, &rejection{code: mcp.PARSE_ERROR, text: "the request has no body"}, nil
	case len(raw) < spool.Long && int64(len(raw)) <= h.config.MaxBody: // nearly always
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
	if m == nil {
		long.Close()
	}
	return m, refused, nil
}

// readAll reads a small body. What is set aside for it grows with what has come.
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
		panic(http.ErrAbortHandler) // the answer has begun
	}
	writeRejection(w, http.StatusInternalServerError, rejection{id: m.id, code: mcp.INTERNAL_ERROR, text: "internal error"})
}

func writeRejection(w http.ResponseWriter, status int, r rejection) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(r.response()) // a client that has gone needs no answer
}
