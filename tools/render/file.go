package render

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Sizes of files in answers, in bytes.
const (
	FilePage       = 10_000   // the text in an answer to a call without a length
	MaxPictureFile = 20 << 20 // the largest picture file that is shown as a picture
)

// File is a part of a file in a sandbox, for an answer of read_file.
type File struct {
	Sandbox string // the id or display name that the call has given
	Path    sandbox.Path
	Offset  int64 // where in the file the part begins
	Size    int64 // the size of the whole file
}

// BeyondEnd returns the error for a part that begins at or after the end of the file.
func (f File) BeyondEnd() *mcp.CallToolResult {
	return Error(fmt.Sprintf("offset %d is at or after the end of %s, which has %s", f.Offset, QuotePath(f.Path), Bytes(f.Size)))
}

// Picture returns an answer that shows the model the picture whose bytes are data, or an error that says why it cannot be
// shown.
func (f File) Picture(ctx context.Context, data []byte, pictures *Pictures) *mcp.CallToolResult {
	p, err := pictures.fit(ctx, data, maxImagesBytes)
	if err != nil {
		return f.pictureError(err.Error())
	}
	s := fmt.Sprintf("%s: an image of %d×%d pixels, %s", QuotePath(f.Path), p.width, p.height, Bytes(f.Size))
	if p.note != "" {
		s += ", " + p.note
	}
	return &mcp.CallToolResult{Content: []mcp.Content{textContent(s + "."), p.content}}
}

// PictureTooLarge returns the error for a picture of more than [MaxPictureFile] bytes.
func (f File) PictureTooLarge() *mcp.CallToolResult { return f.pictureError("it has more than 20 MiB") }

func (f File) pictureError(why string) *mcp.CallToolResult {
	return Error(fmt.Sprintf("%s is an image that cannot be shown: %s. It has %s. Make a smaller PNG of it with execute_code, or give length to get its bytes as base64.", QuotePath(f.Path), why, Bytes(f.Size)))
}

// Text returns an answer that shows the text s. The text is n bytes long in the file; it can be longer or shorter in s,
// for example if it was decoded from UTF-16. Text adds note to the line about the file.
func (f File) Text(s string, n int, note string) *mcp.CallToolResult {
	head := fmt.Sprintf("%s: %s", QuotePath(f.Path), Bytes(f.Size))
	end := f.Offset + int64(n)
	if f.Offset > 0 || end < f.Size {
		head += fmt.Sprintf(", of which %d to %d follow", f.Offset, end)
	}
	head += note
	if strings.Contains(s, "\r\n") {
		head += ", lines end in CR LF"
	}
	clean := cleanFile(s)
	if !ShowsUnchanged(s) {
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
	if end < f.Size {
		w.line("%s more: read_file(sandbox_id=%q, path=%s, offset=%d).", Bytes(f.Size-end), f.Sandbox, QuotePath(f.Path), end)
	}
	return Text(w.String())
}

// FitFilePage shortens a page of a file, of at most [FilePage] bytes, if its escapes would make the answer too long.
func FitFilePage(page []byte) []byte {
	for len(page) > 0 && len(breakBackticks(cleanFile(string(page)))) > FilePage*5/4 {
		page = []byte(cutHead(string(page), len(page)*3/4))
	}
	return page
}

// ShowsUnchanged reports whether a file's text needs no escapes in an answer. Line ends of Windows need none.
func ShowsUnchanged(s string) bool { return cleanFile(s) == strings.ReplaceAll(s, "\r\n", "\n") }

// cleanFile is like cleanText, but it shows terminal sequences as escapes instead of removing them, because a file's
// text must be complete.
func cleanFile(s string) string {
	return cleanText(strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\x1b", `\x1b`))
}

// Describe returns an answer that describes a file that is neither text nor a picture, instead of showing its bytes. It is
// used if the call has no length and the file is larger than maxInlineBytes of package tools, because a model cannot use
// that much base64.
func (f File) Describe(data []byte) *mcp.CallToolResult {
	return Text(fmt.Sprintf(
		"%s: %s, not text and not a PNG or JPEG; it begins with the bytes % x. Work on it with execute_code, or give length to get bytes as base64.%s",
		QuotePath(f.Path), Bytes(f.Size), data[:min(len(data), 16)], f.otherEncoding(data)))
}

// Inline returns an answer with the bytes of a small file as base64 in the text, because every client shows the text to
// the model.
func (f File) Inline(data []byte) *mcp.CallToolResult {
	return Text(fmt.Sprintf("%s: bytes %d to %d of %d, not text, as base64:\n%s%s",
		QuotePath(f.Path), f.Offset, f.Offset+int64(len(data)), f.Size, base64.StdEncoding.EncodeToString(data), f.otherEncoding(data)))
}

// otherEncoding returns a hint on how to read data as Latin-1 if it could be text in an older encoding, otherwise "".
// The bytes alone do not show which encoding it is.
func (f File) otherEncoding(data []byte) string {
	for _, b := range data {
		if b < 0x20 && !strings.ContainsRune("\t\n\r\f", rune(b)) || b == 0x7f {
			return ""
		}
	}
	return fmt.Sprintf("\nIt may be text in another encoding: with execute_code, open(%s, encoding=\"latin-1\").read() decodes Latin-1.", QuotePath(f.Path))
}

// Base64 returns an answer with data, unchanged, as a base64 resource.
func (f File) Base64(data []byte) *mcp.CallToolResult {
	var blob strings.Builder
	blob.Grow(base64.StdEncoding.EncodedLen(len(data)))
	encoder := base64.NewEncoder(base64.StdEncoding, &blob)
	encoder.Write(data) // writing to a strings.Builder cannot fail
	encoder.Close()
	return f.Resource(int64(len(data)), blob.String())
}

// Resource returns an answer with a resource of n bytes of the file. blob is the base64 of these bytes, or the placeholder
// that stands for it until the server sends the answer.
func (f File) Resource(n int64, blob string) *mcp.CallToolResult {
	end := f.Offset + n
	s := fmt.Sprintf("%s: bytes %d to %d of %d, as base64 in the resource that follows.", QuotePath(f.Path), f.Offset, end, f.Size)
	if end < f.Size {
		s += fmt.Sprintf("\n%s more: offset=%d.", Bytes(f.Size-end), end)
	}
	uri := url.URL{Scheme: "sandbox", Host: f.Sandbox, Path: "/files/" + string(f.Path)}
	return &mcp.CallToolResult{Content: []mcp.Content{textContent(s), mcp.EmbeddedResource{
		Type:     mcp.ContentTypeResource,
		Resource: mcp.BlobResourceContents{URI: uri.String(), MIMEType: "application/octet-stream", Blob: blob},
	}}}
}
