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

// message is what must be known of a message before mcp-go sees it.
type message struct {
	raw    json.RawMessage
	id     json.RawMessage // as it was written; nil for a notification
	method string
	long   *spool.Message // its long strings; nil: it has none
}

// close lets go of what the message has on disk.
func (m *message) close() { m.long.Close() }

// rejection is a message that gets an error for an answer.
type rejection struct {
	id     json.RawMessage // nil: it is not known
	code   int
	text   string
	status int   // over HTTP; 0: 400
	cause  error // for the log
}

func (r rejection) response() mcp.JSONRPCError {
	var id any
	if r.id != nil {
		id = r.id
	}
	return mcp.JSONRPCError{JSONRPC: mcp.JSONRPC_VERSION, ID: mcp.NewRequestId(id), Error: mcp.NewJSONRPCErrorDetails(r.code, r.text, nil)}
}

// parse reads a line. It returns nil and nil for what needs no answer: an empty line,
// or a client's response.
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
		return nil, &rejection{code: mcp.INVALID_REQUEST, text: "batches are not supported: send one message a line"}
	case !utf8.Valid(line):
		// encoding/json would put another character in its place, and code or a
		// file would silently not be what was sent.
		_ = json.Unmarshal(line, &m) // its id, if it has one
		return nil, &rejection{id: known(m.ID), code: mcp.PARSE_ERROR, text: "the message is not valid UTF-8"}
	}
	if err := wire.CheckShape(line, wire.MaxValues); err != nil && json.Valid(line) {
		return nil, &rejection{id: ends(line).idOf(), code: mcp.INVALID_REQUEST, text: err.Error()}
	}
	if err := json.Unmarshal(line, &m); err != nil {
		if !json.Valid(line) {
			return nil, &rejection{code: mcp.PARSE_ERROR, text: "the line is not one valid JSON message: " + firstError(err)}
		}
		return nil, &rejection{id: known(m.ID), code: mcp.INVALID_REQUEST, text: "the message is not a JSON-RPC request"}
	}
	id := known(m.ID)
	switch {
	case m.Method == nil && (m.Result != nil || m.Error != nil):
		return nil, nil // we ask clients for nothing, so it answers nothing
	case m.Method == nil:
		return nil, &rejection{id: id, code: mcp.INVALID_REQUEST, text: "the message has no method"}
	case m.ID != nil && id == nil:
		return nil, &rejection{code: mcp.INVALID_REQUEST, text: "the id must be a string or a number"}
	}
	return &message{raw: line, id: id, method: *m.Method}, nil
}

// known returns an id that may be sent back: a string or a number.
func known(id json.RawMessage) json.RawMessage {
	if len(id) > 0 && (id[0] == '"' || id[0] == '-' || id[0] >= '0' && id[0] <= '9') && len(id) < 1024 {
		return id
	}
	return nil
}

// answerHead is how an answer of mcp-go begins that is to a number.
var answerHead = regexp.MustCompile(`^(?:event: message\ndata: )?\{"jsonrpc":"2\.0","id":([-+.0-9eE]+)`)

// exactly returns an answer to m with its id as it was written. mcp-go reads numbers as float64, which
// changes those beyond 2^53 (a client that counts in nanoseconds has such), and who sent one
// would wait for ever.
func (m *message) exactly(answer []byte) []byte {
	const exact = 15 // so many digits are always kept
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

// Where the id of a message stands when it is not inside params: before or after
// everything long. A quote inside a JSON string is escaped, so these can't match there.
var (
	idAtStart = regexp.MustCompile(`^\s*\{\s*(?:"(?:jsonrpc|method)"\s*:\s*"[^"\\]*"\s*,\s*)*"id"\s*:\s*(-?\d+|"[^"\\]*")\s*,`)
	idAtEnd   = regexp.MustCompile(`[^\\]"id"\s*:\s*(-?\d+|"[^"\\]*")\s*(?:,\s*"(?:jsonrpc|method)"\s*:\s*"[^"\\]*"\s*)*\}\s*$`)
)

// tooLong is what is left of a message that can't be handled. Its ends may tell which
// request it was.
type tooLong struct{ head, tail []byte }

// ends returns the beginning and the end of a message that is in memory but must not be decoded, so that its id can be found.
func ends(line []byte) *tooLong {
	const most = 4 << 10
	return &tooLong{head: line[:min(len(line), most)], tail: line[max(0, len(line)-most):]}
}

// idOf finds the id of a message of which only the ends are known, so that the call
// is answered and does not hang.
func (t *tooLong) idOf() json.RawMessage {
	if t.tail == nil {
		t.tail = t.head
		var whole struct {
			ID json.RawMessage `json:"id"`
		}
		if json.Unmarshal(t.head, &whole) == nil {
			return known(whole.ID)
		}
	}
	for _, m := range [][][]byte{idAtStart.FindSubmatch(t.head), idAtEnd.FindSubmatch(t.tail)} {
		if m != nil {
			return m[1]
		}
	}
	return nil
}
