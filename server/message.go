package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"unicode/utf8"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
	"github.com/dormouse-sandbox/dormouse/server/spool"
)

// message is a JSON-RPC request or notification from a client, parsed as far as the server needs it before it passes the
// message to mcp-go.
type message struct {
	raw    json.RawMessage
	id     json.RawMessage // the JSON text of the id; nil for a notification
	method string
	long   *spool.Message // the long strings, which are on disk; nil: the message has no long strings
}

// close removes the message's long strings from the disk.
func (m *message) close() { m.long.Close() }

// rejection is a JSON-RPC error that answers a message without handling it.
type rejection struct {
	id     json.RawMessage // the id of the rejected message; nil: unknown
	code   int
	text   string
	status int   // the HTTP status; 0: 400
	cause  error // logged and not sent; may be nil
}

func (r rejection) response() mcp.JSONRPCError {
	var id any
	if r.id != nil {
		id = r.id
	}
	return mcp.JSONRPCError{JSONRPC: mcp.JSONRPC_VERSION, ID: mcp.NewRequestId(id), Error: mcp.NewJSONRPCErrorDetails(r.code, r.text, nil)}
}

// parse parses one JSON-RPC message. It returns nil and nil for input that needs no answer: an empty line or a response
// from the client.
func parse(line []byte) (*message, *rejection) {
	line = bytes.TrimSpace(bytes.TrimPrefix(line, []byte("\ufeff")))
	if len(line) == 0 {
		return nil, nil
	}
	var m struct {
		ID     json.RawMessage `json:"id"`
		Method *string         `json:"method"`
		Result json.RawMessage `json:"result"`
		Error  json.RawMessage `json:"error"`
	}
	switch {
	case line[0] == '[' && json.Valid(line):
		return nil, &rejection{code: mcp.INVALID_REQUEST, text: "batches are not supported: send each message on its own"}
	case !utf8.Valid(line):
		// encoding/json would replace invalid bytes with U+FFFD, which would silently change the code or file that the
		// client sent.
		_ = json.Unmarshal(line, &m) // to find the id for the rejection
		return nil, &rejection{id: validID(m.ID), code: mcp.PARSE_ERROR, text: "the message is not valid UTF-8"}
	}
	if err := wire.CheckShape(line, wire.MaxValues); err != nil && json.Valid(line) {
		return nil, &rejection{id: endsOf(line).idOf(), code: mcp.INVALID_REQUEST, text: err.Error()}
	}
	if err := json.Unmarshal(line, &m); err != nil {
		if !json.Valid(line) {
			return nil, &rejection{code: mcp.PARSE_ERROR, text: "the line is not one valid JSON message: " + firstError(err)}
		}
		return nil, &rejection{id: validID(m.ID), code: mcp.INVALID_REQUEST, text: "the message is not a JSON-RPC request"}
	}
	id := validID(m.ID)
	switch {
	case m.Method == nil && (m.Result != nil || m.Error != nil):
		return nil, nil // a response, which is ignored, because the server sends no requests
	case m.Method == nil:
		return nil, &rejection{id: id, code: mcp.INVALID_REQUEST, text: "the message has no method"}
	case m.ID != nil && id == nil:
		return nil, &rejection{code: mcp.INVALID_REQUEST, text: "the id must be a string or a number"}
	}
	return &message{raw: line, id: id, method: *m.Method}, nil
}

// validID returns id if the server may send it back: a string or a number of less than 1024 bytes. Otherwise it returns nil.
func validID(id json.RawMessage) json.RawMessage {
	if len(id) > 0 && (id[0] == '"' || id[0] == '-' || id[0] >= '0' && id[0] <= '9') && len(id) < 1024 {
		return id
	}
	return nil
}

// answerHead matches the beginning of an mcp-go answer whose id is a number.
var answerHead = regexp.MustCompile(`^(?:event: message\ndata: )?\{"jsonrpc":"2\.0","id":([-+.0-9eE]+)`)

// restoreID replaces the id in an answer to m with the JSON text that the client sent. mcp-go decodes numbers as float64,
// which changes integers beyond 2^53, such as times in nanoseconds. The client would not recognize the changed id and would
// wait for the answer forever.
func (m *message) restoreID(answer []byte) []byte {
	const exact = 15 // a float64 preserves every number of up to 15 digits
	if len(m.id) <= exact || m.id[0] == '"' {
		return answer
	}
	at := answerHead.FindSubmatchIndex(answer)
	if at == nil {
		return answer
	}
	return slices.Concat(answer[:at[2]], m.id, answer[at[3]:])
}

func firstError(err error) string {
	if e, ok := err.(*json.SyntaxError); ok {
		return fmt.Sprintf("%v at byte %d", e, e.Offset)
	}
	return "it cannot be read"
}

// idAtStart and idAtEnd match a message whose field id is at the start, before params, or at the end, after params. They
// cannot match text inside a JSON string, because quotes in a string are escaped.
var (
	idAtStart = regexp.MustCompile(`^\s*\{\s*(?:"(?:jsonrpc|method)"\s*:\s*"[^"\\]*"\s*,\s*)*"id"\s*:\s*(-?\d+|"[^"\\]*")\s*,`)
	idAtEnd   = regexp.MustCompile(`[^\\]"id"\s*:\s*(-?\d+|"[^"\\]*")\s*(?:,\s*"(?:jsonrpc|method)"\s*:\s*"[^"\\]*"\s*)*\}\s*$`)
)

// messageEnds holds the beginning and the end of a message that can't be handled. One of them may contain the message's id.
// If tail is nil, head is the whole message.
type messageEnds struct{ head, tail []byte }

// endsOf returns the beginning and the end of a message that is in memory, but must not be decoded, because it has too many
// values or is nested too deeply.
func endsOf(line []byte) *messageEnds {
	const maximum = 4 << 10
	return &messageEnds{head: line[:min(len(line), maximum)], tail: line[max(0, len(line)-maximum):]}
}

// idOf returns the id of the message if its beginning or end contains it, and nil otherwise. With the id, the server can
// answer the call, so that the client does not wait for it.
func (t *messageEnds) idOf() json.RawMessage {
	if t.tail == nil {
		t.tail = t.head
		var whole struct {
			ID json.RawMessage `json:"id"`
		}
		if json.Unmarshal(t.head, &whole) == nil {
			return validID(whole.ID)
		}
	}
	for _, m := range [][][]byte{idAtStart.FindSubmatch(t.head), idAtEnd.FindSubmatch(t.tail)} {
		if m != nil {
			return m[1]
		}
	}
	return nil
}
