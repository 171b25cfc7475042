package tools

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
)

// Limits of a read_file answer, in bytes of the file.
const (
	filePage       = 10_000   // the text in an answer, if the call has no length
	maxTextLength  = 1 << 20  // the text in an answer, if the call has a length; a longer part is returned as base64
	maxImageFile   = 20 << 20 // the largest picture file that is shown as a picture
	maxInlineBytes = 7_500    // the largest other file that is shown as base64 in the answer's text, if the call has no length
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

// fileRead contains the arguments of one read_file call, and the file's size once it is known.
type fileRead struct {
	sandbox string
	path    string
	offset  int64
	size    int64 // the size of the whole file, once it is known
}

func (t *toolset) callReadFile(ctx context.Context, a arguments) *mcp.CallToolResult {
	path, err := sandbox.ParsePath(a.text("path"))
	if err != nil {
		return t.failure(ctx, subjectFile, err)
	}
	r := fileRead{sandbox: a.text("sandbox_id"), path: path, offset: a.integer("offset", 0)}
	exact, length := a.has("length"), a.integer("length", filePage)
	if large := t.readLarge(ctx, r, length); large != nil {
		return large
	}
	data, err := t.fetch(ctx, &r, length)
	if err != nil {
		return t.failure(ctx, subjectFile, err)
	}
	if r.offset > 0 && r.offset >= r.size {
		return errorText(fmt.Sprintf("offset %d is at or after the end of %s, which has %s", r.offset, quotePath(r.path), bytesOf(r.size)))
	}
	if !exact && r.offset == 0 && isPicture(data) {
		return t.showPicture(ctx, r)
	}
	whole := r.offset+int64(len(data)) >= r.size
	if len(data) <= maxTextLength {
		if readable := textPart(data, whole); len(readable) > 0 || len(data) == 0 {
			if !exact {
				readable = fitFilePage(readable)
			}
			return r.text(string(readable), len(readable), "")
		}
		if order := t.utf16Order(ctx, r, data); order != nil {
			if readable, used := utf16Part(data, order, whole); used > 0 {
				return r.text(readable, used, fmt.Sprintf(", UTF-16 (%s) shown decoded", order))
			}
		}
	}
	switch {
	case exact:
		return r.bytes(data)
	case r.size > maxInlineBytes:
		return r.describe(data)
	}
	return r.inline(data)
}

// fetch reads up to length bytes at r.offset into memory and sets r.size.
func (t *toolset) fetch(ctx context.Context, r *fileRead, length int64) ([]byte, error) {
	body, file, err := t.sandboxes.ReadFile(ctx, r.sandbox, r.path, r.offset, length)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	r.size = file.Size
	size := max(0, min(length, r.size-r.offset, sandbox.MaxFileBytes))
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
func (t *toolset) showPicture(ctx context.Context, r fileRead) *mcp.CallToolResult {
	if r.size > maxImageFile {
		return r.describePicture("it has more than 20 MiB")
	}
	data, err := t.fetch(ctx, &r, maxImageFile)
	if err != nil {
		return t.failure(ctx, subjectFile, err)
	}
	p, err := t.images.fit(ctx, data, maxImagesBytes)
	if err != nil {
		return r.describePicture(err.Error())
	}
	s := fmt.Sprintf("%s: an image of %d×%d pixels, %s", quotePath(r.path), p.width, p.height, bytesOf(r.size))
	if p.note != "" {
		s += ", " + p.note
	}
	return &mcp.CallToolResult{Content: []mcp.Content{textContent(s + "."), p.content}}
}

func (r fileRead) describePicture(why string) *mcp.CallToolResult {
	return errorText(fmt.Sprintf("%s is an image that cannot be shown: %s. It has %s. Make a smaller PNG of it with execute_code, or give length to get its bytes as base64.", quotePath(r.path), why, bytesOf(r.size)))
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

// text returns an answer that shows the text s. The text is n bytes long in the file; it can be longer or shorter in s,
// for example if it was decoded from UTF-16. text adds note to the line about the file.
func (r fileRead) text(s string, n int, note string) *mcp.CallToolResult {
	head := fmt.Sprintf("%s: %s", quotePath(r.path), bytesOf(r.size))
	end := r.offset + int64(n)
	if r.offset > 0 || end < r.size {
		head += fmt.Sprintf(", of which %d to %d follow", r.offset, end)
	}
	head += note
	if strings.Contains(s, "\r\n") {
		head += ", lines end in CR LF"
	}
	clean := cleanFile(s)
	if clean != strings.ReplaceAll(s, "\r\n", "\n") {
		head += ", control characters are written as escapes"
	}
	shown := breakBackticks(clean)
	if shown != clean {
		head += ", some backticks are written as \\x60"
	}
	w := &writer{fence: fence([]piece{{text: shown}})}
	w.line("%s.", head)
	if s != "" {
		w.line("%s\n%s\n%s", w.fence, strings.TrimSuffix(shown, "\n"), w.fence)
	}
	if end < r.size {
		w.line("%s more: read_file(sandbox_id=%q, path=%s, offset=%d).", bytesOf(r.size-end), r.sandbox, quotePath(r.path), end)
	}
	return &mcp.CallToolResult{Content: []mcp.Content{textContent(w.String())}}
}

// fitFilePage shortens a page of a file if its escapes would make the answer too long.
func fitFilePage(page []byte) []byte {
	for len(page) > 0 && len(breakBackticks(cleanFile(string(page)))) > filePage*5/4 {
		page = []byte(cutHead(string(page), len(page)*3/4))
	}
	return page
}

// cleanFile is like cleanText, but it shows terminal sequences as escapes instead of removing them, because a file's
// text must be complete.
func cleanFile(s string) string {
	return cleanText(strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\x1b", `\x1b`))
}

// describe returns an answer that describes a file that is neither text nor a picture, instead of showing its bytes. It
// is used if the call has no length and the file is larger than maxInlineBytes, because a model cannot use that much
// base64.
func (r fileRead) describe(data []byte) *mcp.CallToolResult {
	return &mcp.CallToolResult{Content: []mcp.Content{textContent(fmt.Sprintf(
		"%s: %s, not text and not a PNG or JPEG; it begins with the bytes % x. Work on it with execute_code, or give length to get bytes as base64.%s",
		quotePath(r.path), bytesOf(r.size), data[:min(len(data), 16)], r.otherEncoding(data)))}}
}

// inline returns an answer with the bytes of a small file as base64 in the text, because every client shows the text to
// the model.
func (r fileRead) inline(data []byte) *mcp.CallToolResult {
	return &mcp.CallToolResult{Content: []mcp.Content{textContent(fmt.Sprintf("%s: bytes %d to %d of %d, not text, as base64:\n%s%s",
		quotePath(r.path), r.offset, r.offset+int64(len(data)), r.size, base64.StdEncoding.EncodeToString(data), r.otherEncoding(data)))}}
}

// otherEncoding returns a hint on how to read data as Latin-1 if it could be text in an older encoding, otherwise "".
// The bytes alone do not show which encoding it is.
func (r fileRead) otherEncoding(data []byte) string {
	for _, b := range data {
		if b < 0x20 && !strings.ContainsRune("\t\n\r\f", rune(b)) || b == 0x7f {
			return ""
		}
	}
	return fmt.Sprintf("\nIt may be text in another encoding: with execute_code, open(%s, encoding=\"latin-1\").read() decodes Latin-1.", quotePath(r.path))
}

// bytes returns an answer with data, unchanged, as a base64 resource.
func (r fileRead) bytes(data []byte) *mcp.CallToolResult {
	var blob strings.Builder
	blob.Grow(base64.StdEncoding.EncodedLen(len(data)))
	encoder := base64.NewEncoder(base64.StdEncoding, &blob)
	encoder.Write(data) // writing to a strings.Builder cannot fail
	encoder.Close()
	return r.resource(int64(len(data)), blob.String())
}

// resource returns an answer with a resource of n bytes of the file. blob is the base64 of these bytes, or the placeholder
// that an [Outbox] returned for it.
func (r fileRead) resource(n int64, blob string) *mcp.CallToolResult {
	end := r.offset + n
	s := fmt.Sprintf("%s: bytes %d to %d of %d, as base64 in the resource that follows.", quotePath(r.path), r.offset, end, r.size)
	if end < r.size {
		s += fmt.Sprintf("\n%s more: offset=%d.", bytesOf(r.size-end), end)
	}
	uri := url.URL{Scheme: "sandbox", Host: r.sandbox, Path: "/files/" + r.path}
	return &mcp.CallToolResult{Content: []mcp.Content{textContent(s), mcp.EmbeddedResource{
		Type:     mcp.ContentTypeResource,
		Resource: mcp.BlobResourceContents{URI: uri.String(), MIMEType: "application/octet-stream", Blob: blob},
	}}}
}
