package server

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/server/spool"
	"github.com/dormouse-sandbox/dormouse/tools"
)

// parseSpooled parses a message whose long strings are on disk and were replaced by placeholders. It rejects a message with
// long strings outside the arguments of a tool call, because resolve restores only arguments: anywhere else, the server would
// use the placeholder as if the client had sent it. The caller must close the returned message, which uses long. If
// parseSpooled returns no message, it closes long.
func parseSpooled(long *spool.Message) (m *message, refused *rejection) {
	defer func() {
		if m == nil {
			long.Close()
		}
	}()
	text, flaw := long.End()
	if flaw != nil {
		return nil, flawRejection(flaw)
	}
	m, refused = parse(text)
	if m == nil || long.Count() == 0 {
		return m, refused
	}
	m.long = long
	if long.CountIn(m.id) > 0 {
		m.id = nil // the id is a long string; as in parse, such an id is not sent back
	}
	var call struct {
		Params struct {
			Arguments json.RawMessage `json:"arguments"`
		} `json:"params"`
	}
	if m.method == string(mcp.MethodToolsCall) {
		_ = json.Unmarshal(m.raw, &call) // on failure there are no arguments, and so no placeholders in them
	}
	if long.CountIn(call.Params.Arguments) != long.Count() {
		return nil, &rejection{id: m.id, code: mcp.INVALID_REQUEST, text: "the message has a string of more than 64 KiB outside the arguments of a tool call"}
	}
	return m, nil
}

// flawRejection returns the rejection for a flaw. The rejection has the id of the message if the beginning or the end of the
// message contains the id.
func flawRejection(f *spool.Flaw) *rejection {
	r := &rejection{text: f.Text, cause: f.Cause, id: (&messageEnds{head: f.Head, tail: f.Tail}).idOf()}
	switch f.Kind {
	case spool.Malformed:
		r.code, r.status = mcp.PARSE_ERROR, http.StatusBadRequest
	case spool.TooLong:
		r.code, r.status = mcp.INVALID_REQUEST, http.StatusRequestEntityTooLarge
	default:
		r.code, r.status = busy, http.StatusServiceUnavailable
	}
	return r
}

type longKey struct{}

// withLong returns a context in which resolve finds the long strings of m.
func withLong(ctx context.Context, m *message) context.Context {
	if m.long == nil {
		return ctx
	}
	return context.WithValue(ctx, longKey{}, m.long)
}

// resolve replaces the placeholders in v, the arguments of a tool call, with their long strings, and returns the result. It
// modifies v. The server calls it before every tool call, so a tool never gets a placeholder.
func resolve(ctx context.Context, v any) any {
	long, ok := ctx.Value(longKey{}).(*spool.Message)
	if !ok {
		return v
	}
	return replaceTokens(long, v)
}

func replaceTokens(long *spool.Message, v any) any {
	switch v := v.(type) {
	case string:
		if s, ok := long.Find(v); ok {
			return tools.LongText(s)
		}
	case []any:
		for i := range v {
			v[i] = replaceTokens(long, v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = replaceTokens(long, v[k])
		}
	}
	return v
}

// toolOutbox is a spool.Outbox whose errors are meant for models. It logs a disk error with its cause.
type toolOutbox struct {
	*spool.Outbox
	log func(error)
}

func (o toolOutbox) Base64(r io.Reader) (string, int64, error) {
	token, n, err := o.Outbox.Base64(r)
	switch {
	case errors.Is(err, spool.ErrBusy):
		err = sandbox.Errorf(sandbox.Unavailable, "%s", spool.ErrBusy)
	case errors.Is(err, spool.ErrDisk):
		o.log(err)
		err = sandbox.Errorf(sandbox.Unavailable, "%s", spool.ErrDisk)
	}
	return token, n, err
}

// withOutbox returns a context in which a tool call can put file contents that are too long for memory into outbox. outbox may
// be nil; then the whole answer is in memory.
func (s *Server) withOutbox(ctx context.Context, outbox *spool.Outbox) context.Context {
	if outbox == nil {
		return ctx
	}
	return tools.WithOutbox(ctx, toolOutbox{outbox, func(err error) { s.log.Error("the spool cannot be written", "error", err) }})
}
