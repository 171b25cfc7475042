package tools

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
	"github.com/dormouse-sandbox/dormouse/tools/render"
)

// Resource is an MCP resource template. Clients list it and read the resources by URI; the model does not have to call
// a tool for that.
type Resource struct {
	Template mcp.ResourceTemplate
	// Read returns the contents. The text of its errors is for the user.
	Read func(ctx context.Context, uri string) (mcp.ResourceContents, error)
}

// fileURI is the template for the URI of a file. The resources that read_file returns have URIs of this form.
const fileURI = "sandbox://{sandbox_id}/files/{+path}"

// Files returns the resource template for the files of all sandboxes.
func Files(s Sandboxes, c Config) Resource {
	t := newToolset(s, c)
	return Resource{
		Template: mcp.NewResourceTemplate(fileURI, "sandbox-file",
			mcp.WithTemplateTitle("A file of a sandbox"),
			mcp.WithTemplateDescription("A file in a sandbox's /workspace, at most 100 MiB, as text where it is text and else as base64. sandbox_id can be a display_name.")),
		Read: func(ctx context.Context, uri string) (mcp.ResourceContents, error) {
			contents, err := t.readResource(ctx, uri)
			if err != nil {
				return nil, errors.New(t.explain(ctx, subjectFile, err))
			}
			return contents, nil
		},
	}
}

func (t *toolset) readResource(ctx context.Context, uri string) (mcp.ResourceContents, error) {
	name, file, err := parseFileURI(uri)
	if err != nil {
		return nil, err
	}
	body, info, err := t.sandboxes.ReadFile(ctx, name, file, 0, sandbox.MaxFileBytes)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	if info.Size > sandbox.MaxFileBytes {
		return nil, invalid("%q has %s, and a resource at most %d MiB: read a part of it with read_file", sandbox.Quote(string(file)), render.Bytes(info.Size), sandbox.MaxFileBytes/sandbox.MiB)
	}
	if box, ok := ctx.Value(outboxKey{}).(Outbox); ok && info.Size > maxTextLength {
		token, _, err := box.Base64(body)
		return mcp.BlobResourceContents{URI: uri, MIMEType: mediaType(string(file), nil), Blob: token}, err
	}
	if err := wire.Reserve(ctx, info.Size, answerPatience); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	if s := string(data); len(data) <= maxTextLength && textPart(data, true) != nil && render.ShowsUnchanged(s) {
		return mcp.TextResourceContents{URI: uri, MIMEType: mediaType(string(file), data), Text: s}, nil
	}
	return mcp.BlobResourceContents{URI: uri, MIMEType: mediaType(string(file), data), Blob: base64.StdEncoding.EncodeToString(data)}, nil
}

// parseFileURI returns the sandbox's name and the file's path in a URI.
func parseFileURI(uri string) (name string, file sandbox.Path, err error) {
	rest, isOurs := strings.CutPrefix(uri, "sandbox://")
	name, escaped, isFile := strings.Cut(rest, "/files/")
	name, nameErr := url.PathUnescape(name)
	given, pathErr := url.PathUnescape(escaped)
	if !isOurs || !isFile || nameErr != nil || pathErr != nil || name == "" {
		return "", "", invalid("%q is not the URI of a file: write sandbox://<sandbox_id>/files/<path>", sandbox.Quote(uri))
	}
	file, err = sandbox.ParsePath(given)
	return name, file, err
}

// mediaType returns the MIME type of a file: by the extension of its name if that is known, otherwise by its content.
// It uses its own table of extensions, so that the result is the same on every machine.
func mediaType(name string, data []byte) string {
	if known := mediaTypes[strings.ToLower(path.Ext(name))]; known != "" {
		return known
	}
	if len(data) == 0 {
		return "application/octet-stream"
	}
	media, _, err := mime.ParseMediaType(http.DetectContentType(data))
	if err != nil {
		return "application/octet-stream"
	}
	return media
}

var mediaTypes = map[string]string{
	".csv": "text/csv", ".css": "text/css", ".gif": "image/gif", ".gz": "application/gzip", ".htm": "text/html", ".html": "text/html", ".ipynb": "application/x-ipynb+json",
	".jpeg": "image/jpeg", ".jpg": "image/jpeg", ".js": "text/javascript", ".json": "application/json", ".log": "text/plain", ".md": "text/markdown", ".parquet": "application/vnd.apache.parquet",
	".pdf": "application/pdf", ".png": "image/png", ".py": "text/x-python", ".svg": "image/svg+xml", ".toml": "application/toml", ".tsv": "text/tab-separated-values", ".txt": "text/plain",
	".webp": "image/webp", ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", ".xml": "application/xml", ".yaml": "application/yaml", ".yml": "application/yaml", ".zip": "application/zip",
}
