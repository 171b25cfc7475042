//go:build linux

package supervisor

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// maxMessage is the length in bytes of the longest line that a kernel may send.
const maxMessage = 16 * sandbox.MiB

// message is one line from a kernel, as docs/kernel-protocol.md describes it. Every field is hostile input, because
// the code in the kernel can write any content.
type message struct {
	Type      string            `json:"type"`
	ID        string            `json:"id"`
	Text      string            `json:"text"`
	Data      map[string]string `json:"data"`
	Name      string            `json:"name"`
	Message   string            `json:"message"`
	Traceback string            `json:"traceback"`
	Status    string            `json:"status"`
	Language  string            `json:"language"`
	Version   string            `json:"version"`
	Runner    string            `json:"runner"`
}

var errMessage = errors.New("the line is not a valid message")

// Limits of a message's parts. A message with more MIME types is rejected; longer texts are shortened.
const (
	maxMIMETypes   = 20
	maxErrorName   = 200
	maxErrorText   = 16 << 10
	maxErrorTraces = 64 << 10
)

// parseMessage parses one line. It returns an error for unknown types and statuses.
func parseMessage(line []byte) (message, error) {
	if m, ok := parseText(line); ok {
		return m, nil
	}
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return message{}, errMessage
	}
	switch m.Type {
	case "stdout", "stderr", "sync", "warm", "renewed", "begun":
	case "ready":
		m.Version, m.Runner = shorten(m.Version, 100), shorten(m.Runner, 100)
	case "display", "result":
		if len(m.Data) == 0 || len(m.Data) > maxMIMETypes {
			return message{}, errMessage
		}
	case "error":
		m.Name, m.Message = shorten(m.Name, maxErrorName), shorten(m.Message, maxErrorText)
		// The end of a long traceback contains the most information.
		if n := len(m.Traceback); n > maxErrorTraces {
			m.Traceback = "…" + strings.ToValidUTF8(m.Traceback[n-maxErrorTraces:], "")
		}
	case "done":
		if m.Status != "ok" && m.Status != "error" && m.Status != "interrupted" {
			return message{}, errMessage
		}
	default:
		return message{}, errMessage
	}
	return m, nil
}

// parseText is a faster parser for the most frequent messages. It accepts only the form in which our kernels write
// them: {"type":"stdout","id":"…","text":"…"}. It returns false for all other lines, which encoding/json then parses.
func parseText(line []byte) (message, bool) {
	var m message
	rest, ok := bytes.CutPrefix(line, []byte(`{"type":"stdout","id":"`))
	if m.Type = "stdout"; !ok {
		rest, ok = bytes.CutPrefix(line, []byte(`{"type":"stderr","id":"`))
		m.Type = "stderr"
	}
	if !ok {
		return m, false
	}
	id, rest, ok := bytes.Cut(rest, []byte(`","text":"`))
	if !ok || len(id) > 64 || bytes.ContainsFunc(id, notInID) {
		return m, false
	}
	body, ok := bytes.CutSuffix(rest, []byte(`"}`))
	if !ok {
		return m, false
	}
	text, ok := unescape(body)
	m.ID, m.Text = string(id), text
	return m, ok
}

func notInID(r rune) bool { return r != '_' && (r < 'a' || r > 'z') && (r < '0' || r > '9') }

// unescape decodes the content of a JSON string. It returns false for invalid content, and also for \u escapes, which
// may be surrogates: parseMessage leaves them to encoding/json.
func unescape(s []byte) (string, bool) {
	if !utf8.Valid(s) {
		return "", false
	}
	for _, c := range s {
		if c < 0x20 {
			return "", false
		}
	}
	var out strings.Builder
	out.Grow(len(s))
	for {
		i := bytes.IndexByte(s, '\\')
		if i < 0 {
			break
		}
		if bytes.IndexByte(s[:i], '"') >= 0 || i+1 >= len(s) {
			return "", false
		}
		out.Write(s[:i])
		switch s[i+1] {
		case 'n':
			out.WriteByte('\n')
		case 't':
			out.WriteByte('\t')
		case 'r':
			out.WriteByte('\r')
		case 'b':
			out.WriteByte('\b')
		case 'f':
			out.WriteByte('\f')
		case '"', '\\', '/':
			out.WriteByte(s[i+1])
		default:
			return "", false
		}
		s = s[i+2:]
	}
	if bytes.IndexByte(s, '"') >= 0 {
		return "", false
	}
	out.Write(s)
	return out.String(), true
}

// shorten returns s if it has at most n bytes. Otherwise it cuts s at a character within the first n bytes and
// appends an ellipsis.
func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
