package tools

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
	"github.com/dormouse-sandbox/dormouse/tools/render"
)

// Limits of a read_file answer, in bytes of the file.
const (
	maxTextLength  = 1 << 20 // the text in an answer, if the call has a length; a longer part is returned as base64
	maxInlineBytes = 7_500   // the largest binary file that the answer shows as base64 in its text, if the call has no length
)

func (t *toolset) readFile() Tool {
	return tool("read_file", "Read a file from a sandbox",
		"Reads a file of a sandbox. Without length: the first 10,000 bytes of text, or a PNG or JPEG as an image. "+
			"With length: those bytes, as text up to 1 MiB of UTF-8, otherwise as a base64 resource. The answer says how to go on.",
		params{
			sandboxParam(true, ""),
			{name: "path", kind: text, required: true, about: "In /workspace", example: `"out/plot.png"`},
			{name: "offset", kind: integer, min: new(0.0), about: "First byte. Default 0", example: "0"},
			{name: "length", kind: integer, min: new(1.0), max: new(float64(sandbox.MaxFileBytes)), about: "Bytes", example: "10000"},
		},
		hints{readOnly: true, idempotent: true}, nil, t.callReadFile)
}

// answerPatience is how long a call waits for the memory for its answer while other answers use that memory.
const answerPatience = 10 * time.Second

func (t *toolset) callReadFile(ctx context.Context, a arguments) *mcp.CallToolResult {
	path, err := sandbox.ParsePath(a.text("path"))
	if err != nil {
		return t.failure(ctx, subjectFile, err)
	}
	r := render.File{Sandbox: a.text("sandbox_id"), Path: path, Offset: a.integer("offset", 0)}
	exact, length := a.has("length"), a.integer("length", render.FilePage)
	if large := t.readLarge(ctx, r, length); large != nil {
		return large
	}
	data, err := t.fetch(ctx, &r, length)
	if err != nil {
		return t.failure(ctx, subjectFile, err)
	}
	if r.Offset > 0 && r.Offset >= r.Size {
		return r.BeyondEnd()
	}
	if !exact && r.Offset == 0 && isPicture(data) {
		return t.showPicture(ctx, r)
	}
	whole := r.Offset+int64(len(data)) >= r.Size
	if len(data) <= maxTextLength {
		if readable := textPart(data, whole); len(readable) > 0 || len(data) == 0 {
			if !exact {
				readable = render.FitFilePage(readable)
			}
			return r.Text(string(readable), len(readable), "")
		}
		if order := t.utf16Order(ctx, r, data); order != nil {
			if readable, used := utf16Part(data, order, whole); used > 0 {
				return r.Text(readable, used, fmt.Sprintf(", UTF-16 (%s) shown decoded", order))
			}
		}
	}
	switch {
	case exact:
		return r.Base64(data)
	case r.Size > maxInlineBytes:
		return r.Describe(data)
	}
	return r.Inline(data)
}

// fetch reads up to length bytes at r.Offset into memory and sets r.Size.
func (t *toolset) fetch(ctx context.Context, r *render.File, length int64) ([]byte, error) {
	body, file, err := t.sandboxes.ReadFile(ctx, r.Sandbox, r.Path, r.Offset, length)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	r.Size = file.Size
	size := max(0, min(length, r.Size-r.Offset, sandbox.MaxFileBytes))
	if err := wire.Reserve(ctx, size, answerPatience); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.Grow(int(size) + bytes.MinRead)
	_, err = io.Copy(&b, io.LimitReader(body, length))
	return b.Bytes(), err
}

func isPicture(b []byte) bool {
	return bytes.HasPrefix(b, []byte("\x89PNG\r\n\x1a\n")) || bytes.HasPrefix(b, []byte("\xff\xd8\xff"))
}

// showPicture returns an answer that shows the model the picture, or an error result that says why it cannot be shown.
func (t *toolset) showPicture(ctx context.Context, r render.File) *mcp.CallToolResult {
	if r.Size > render.MaxPictureFile {
		return r.PictureTooLarge()
	}
	data, err := t.fetch(ctx, &r, render.MaxPictureFile)
	if err != nil {
		return t.failure(ctx, subjectFile, err)
	}
	return r.Picture(ctx, data, t.pictures)
}

// textPart returns data if it is UTF-8 text without NUL bytes, otherwise nil. If whole is false, data may end in the
// middle of a character; textPart omits the bytes of that character.
func textPart(data []byte, whole bool) []byte {
	if !whole {
		for cut := 0; cut < utf8.UTFMax && cut < len(data); cut++ {
			if part := data[:len(data)-cut]; utf8.Valid(part) {
				data = part
				break
			}
		}
	}
	if !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0 {
		return nil
	}
	return data
}
