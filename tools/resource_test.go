package tools_test

import (
	"encoding/base64"
	"io"
	"strings"
	"testing"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/tools"
)

// TestResource checks the contents of files that are read by URI. A file is returned as text only if no character of it
// needs an escape.
func TestResource(t *testing.T) {
	d := newDouble()
	call(t, tools.New(d, tools.Config{}), "create_sandbox", args{"display_name": "box"})
	for name, content := range map[string]string{
		"in.csv": "a,b\r\n1,2\n", "é 1.txt": "é", "dir/b.bin": "\x00\x01", "colours": "\x1b[31mred", "large.txt": strings.Repeat("x", 1<<20+1), "empty": "",
		"plot.png": "\x89PNG\r\n\x1a\n", "guess": "\x89PNG\r\n\x1a\n", "words": "some words",
	} {
		d.contents[letterID("sbx_", 0)+"/"+name] = []byte(content)
	}
	r := tools.Files(d, tools.Config{})
	for _, c := range []struct{ uri, media, text, blob, err string }{
		{uri: "sandbox://box/files/in.csv", media: "text/csv", text: "a,b\r\n1,2\n"},
		{uri: "sandbox://" + letterID("sbx_", 0) + "/files/in.csv", media: "text/csv", text: "a,b\r\n1,2\n"},
		{uri: "sandbox://box/files/%C3%A9%201.txt", media: "text/plain", text: "é"},
		{uri: "sandbox://box/files/words", media: "text/plain", text: "some words"},
		{uri: "sandbox://box/files/dir/b.bin", media: "application/octet-stream", blob: "\x00\x01"},
		{uri: "sandbox://box/files/dir%2Fb.bin", media: "application/octet-stream", blob: "\x00\x01"},
		{uri: "sandbox://box/files/colours", media: "text/plain", blob: "\x1b[31mred"},
		{uri: "sandbox://box/files/large.txt", media: "text/plain", blob: strings.Repeat("x", 1<<20+1)},
		{uri: "sandbox://box/files/plot.png", media: "image/png", blob: "\x89PNG\r\n\x1a\n"},
		{uri: "sandbox://box/files/guess", media: "image/png", blob: "\x89PNG\r\n\x1a\n"},
		{uri: "sandbox://box/files/none", err: `there is no file "none"`},
		{uri: "sandbox://nobody/files/x", err: "there is no sandbox"},
		{uri: "sandbox://box/files/../x", err: `has a ".."`},
		{uri: "sandbox://box/files/%2e%2e/x", err: `has a ".."`},
		{uri: "sandbox://box/files/", err: "path is empty"},
		{uri: "sandbox://box/files/%zz", err: "not the URI of a file"},
		{uri: "sandbox:///files/x", err: "not the URI of a file"},
		{uri: "sandbox://box/x", err: "not the URI of a file"},
		{uri: "file:///etc/passwd", err: "not the URI of a file"},
		{uri: "", err: "not the URI of a file"},
	} {
		contents, err := r.Read(t.Context(), c.uri)
		if err != nil {
			if c.err == "" || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, want %q", c.uri, err, c.err)
			}
			continue
		}
		switch got := contents.(type) {
		case mcp.TextResourceContents:
			if got.URI != c.uri || got.MIMEType != c.media || got.Text != c.text || c.blob != "" || c.err != "" {
				t.Errorf("%s: %+v", c.uri, got)
			}
		case mcp.BlobResourceContents:
			b, _ := base64.StdEncoding.DecodeString(got.Blob)
			if got.URI != c.uri || got.MIMEType != c.media || string(b) != c.blob || c.err != "" {
				t.Errorf("%s: %.300v", c.uri, got)
			}
		}
	}
	contents, err := r.Read(tools.WithOutbox(t.Context(), fakeOutbox{}), "sandbox://box/files/large.txt")
	if blob, ok := contents.(mcp.BlobResourceContents); err != nil || !ok || blob.Blob != "a token" {
		t.Errorf("with an outbox: %.300v, %v", contents, err)
	}
}

// fakeOutbox is an outbox that discards the bytes and returns the placeholder "a token".
type fakeOutbox struct{}

func (fakeOutbox) Base64(r io.Reader) (string, int64, error) {
	n, err := io.Copy(io.Discard, r)
	return "a token", n, err
}
