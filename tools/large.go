package tools

import (
	"context"
	"fmt"
	"io"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools/render"
)

// LongText is a string in a call's arguments that is too long to be held in memory. Each call of Open returns a new reader
// of the whole string. Open may be called, and the readers may be used, until the tool call ends.
type LongText interface {
	Size() int64 // the length of the string in bytes
	Open() io.Reader
}

// maxFilesText is the limit in bytes for a list of files, or all arguments, that a client sends as a string of JSON.
// Such a string is read into memory. If the client sends a list of files as JSON and not as a string, the long texts in the
// list are not read into memory.
const maxFilesText = 16 * sandbox.MiB

// readIntoMemory reads a long text into memory. It is for arguments that are not the content of a file, such as code. If the
// text has more than maximum bytes, readIntoMemory returns an error of kind invalid. name is the parameter's name, for errors.
func readIntoMemory(name string, long LongText, maximum int64) (string, error) {
	if long.Size() > maximum {
		hint := "write it to a file with write_files and run that"
		if name != "code" {
			hint = "put long content into files, and send files as a list and not as a string"
		}
		return "", invalid("%s is %d bytes, the limit is %d: %s", name, long.Size(), maximum, hint)
	}
	b := make([]byte, long.Size())
	if _, err := io.ReadFull(long.Open(), b); err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	return string(b), nil
}

// Outbox stores the parts of one answer that are too long for memory. Base64 stores all bytes of r. It returns an
// unguessable placeholder, the token, and the number of bytes. The handler puts the placeholder into the answer. When the
// server sends the answer, it replaces the placeholder by the base64 of the bytes. Base64 must not be called concurrently.
type Outbox interface {
	Base64(r io.Reader) (token string, n int64, err error)
}

type outboxKey struct{}

// WithOutbox returns a context in which tools store the long parts of an answer in o.
func WithOutbox(ctx context.Context, o Outbox) context.Context {
	return context.WithValue(ctx, outboxKey{}, o)
}

// readLarge returns an answer with more than maxTextLength bytes of a file, without holding them in memory. It returns
// nil if ctx has no outbox, or if the part of the file to read has at most maxTextLength bytes.
func (t *toolset) readLarge(ctx context.Context, r render.File, length int64) *mcp.CallToolResult {
	box, ok := ctx.Value(outboxKey{}).(Outbox)
	if !ok || length <= maxTextLength {
		return nil
	}
	body, file, err := t.sandboxes.ReadFile(ctx, r.Sandbox, r.Path, r.Offset, length)
	if err != nil {
		return t.failure(ctx, subjectFile, err)
	}
	defer body.Close()
	if r.Size = file.Size; min(length, r.Size-r.Offset) <= maxTextLength {
		return nil
	}
	token, n, err := box.Base64(io.LimitReader(body, length))
	if err != nil {
		return t.failure(ctx, subjectFile, err)
	}
	return r.Resource(n, token)
}
