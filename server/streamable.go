package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"

	"github.com/mark3labs/mcp-go/mcp"
	mcpserver "github.com/mark3labs/mcp-go/server"
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
	defer func() {
		if p := recover(); p != nil {
			h.answerPanic(w, m, p)
		}
	}()
	header := r.Header.Clone()
	header.Del(mcpserver.HeaderKeySessionID)
	h.streamable.Handle(w, &mcpserver.HTTPRequest{Method: r.Method, URL: r.URL, Header: header, Body: m.raw, Context: r.Context()})
}

// readMessage reads the one message of a request. It returns nil for what needs no
// answer, and false when it has answered already.
func (h *HTTP) readMessage(w http.ResponseWriter, r *http.Request) (*message, bool) {
	media, options, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if charset := asciiLower(options["charset"]); err != nil || media != "application/json" || charset != "" && charset != "utf-8" {
		fail(w, http.StatusUnsupportedMediaType, "invalid", "send JSON, with the header Content-Type: application/json")
		return nil, false
	}
	raw, err := readAll(http.MaxBytesReader(w, r.Body, h.config.MaxBody), r.ContentLength)
	if err != nil {
		status, text := http.StatusBadRequest, "the request's body could not be read to its end"
		switch tooLarge, _ := errors.AsType[*http.MaxBytesError](err); {
		case tooLarge != nil:
			status, text = http.StatusRequestEntityTooLarge, fmt.Sprintf("the message is longer than %d MiB, the limit of one message", h.config.MaxBody>>20)
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
	m, refused := parse(raw)
	if refused != nil {
		writeRejection(w, http.StatusBadRequest, *refused)
		return nil, false
	}
	if m == nil && len(raw) == 0 {
		writeRejection(w, http.StatusBadRequest, rejection{code: mcp.PARSE_ERROR, text: "the request has no body"})
		return nil, false
	}
	return m, true
}

// readAll reads a body whose size was declared, or not. What is set aside for it grows
// with what has come, not with what was declared.
func readAll(r io.Reader, declared int64) ([]byte, error) {
	const first = 64 << 10
	b := make([]byte, 0, min(max(declared, 511)+1, first))
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
			size := 2 * cap(b)
			if declared > int64(len(b)) {
				size = int(min(int64(size), declared+1))
			}
			b = append(make([]byte, 0, size), b...)
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
