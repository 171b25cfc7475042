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

// maxMessage is the longest line that a kernel may send.
const maxMessage = 16 * sandbox.MiB

// message is one line of a kernel, as docs/kernel-protocol.md has it. Every field is
// hostile: the code that runs can write what it likes there.
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

var errMessage = errors.New("not a message")

// Longest parts of a message that are kept.
const (
	maxMIMETypes   = 20
	maxErrorName   = 200
	maxErrorText   = 16 << 10
	maxErrorTraces = 64 << 10
)

// parseMessage reads a line. It refuses types and statuses that it does not know.
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
		// Of a long traceback the end says most.
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

// parseText is the quick way for the most frequent messages, written as our kernels write
// them: {"type":"stdout","id":"…","text":"…"}. What it does not take, encoding/json judges.
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

// unescape reads the inside of a JSON string, but for \u, which it leaves to
// encoding/json with its surrogates.
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

// shorten returns at most n bytes of s, ending at a character, and shows that it did.
func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
