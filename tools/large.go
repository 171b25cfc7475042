package tools

import (
	"context"
	"fmt"
	"io"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// LongText is a string among a call's arguments that is not in memory, because it is long.
// It can be opened until the call ends, any number of times.
type LongText interface {
	Size() int64 // in bytes
	Open() io.Reader
}

// maxFilesText bounds lists of files, and arguments, that come as JSON in a string: they are
// taken into memory, and a list is not.
const maxFilesText = 16 * sandbox.MiB

// inMemory returns a text that is not the content of a file.
func inMemory(name string, long LongText, most int64) (string, error) {
	if long.Size() > most {
		hint := "write it to a file with write_files and run that"
		if name != "code" {
			hint = "what is long goes into a file, in a list of files"
		}
		return "", invalid("%s is %d bytes, the limit is %d: %s", name, long.Size(), most, hint)
	}
	b := make([]byte, long.Size())
	if _, err := io.ReadFull(long.Open(), b); err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	return string(b), nil
}

// Outbox takes what is too long for an answer in memory. Whoever writes the answer puts the
// base64 of all that r had where the token is, which nobody can guess.
type Outbox interface {
	Base64(r io.Reader) (token string, n int64, err error)
}

type outboxKey struct{}

// WithOutbox returns a context in which answers may be longer than memory should be.
func WithOutbox(ctx context.Context, o Outbox) context.Context {
	return context.WithValue(ctx, outboxKey{}, o)
}

// readLarge answers with bytes that are too many for text, and are not in memory at any
// time. It returns nil when there is no outbox, or when they are not so many.
func (t *toolset) readLarge(ctx context.Context, r reading, length int64) *mcp.CallToolResult {
	box, ok := ctx.Value(outboxKey{}).(Outbox)
	if !ok || length <= maxTextLength {
		return nil
	}
	body, file, err := t.sandboxes.ReadFile(ctx, r.sandbox, r.path, r.offset, length)
	if err != nil {
		return t.failure(ctx, aFile, err)
	}
	defer body.Close()
	if r.size = file.Size; min(length, r.size-r.offset) <= maxTextLength {
		return nil
	}
	token, n, err := box.Base64(io.LimitReader(body, length))
	if err != nil {
		return t.failure(ctx, aFile, err)
	}
	return r.resource(n, token)
}
