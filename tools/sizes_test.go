//go:build !race

package tools_test

// This file is not built for the race detector, under which decoding 100 MiB takes half a minute instead of a second.

import (
	"context"
	"encoding/base64"
	"io"
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools"
	"github.com/dormouse-sandbox/dormouse/tools/toolstest"
)

// counter is a fake daemon that counts the bytes of files and does not store them.
type counter struct{ *double }

func (counter) WriteFile(_ context.Context, _ string, path sandbox.Path, body io.Reader) (sandbox.File, error) {
	n, err := io.Copy(io.Discard, body)
	return sandbox.File{Path: string(path), Size: n}, err
}

// TestFileSizes checks that a file of the largest size passes through the tools, as text and as base64.
func TestFileSizes(t *testing.T) {
	var writeFiles tools.Tool
	for _, tool := range tools.New(counter{newDouble()}, tools.Config{}) {
		if tool.Definition.Name == "write_files" {
			writeFiles = tool
		}
	}
	text := strings.Repeat("x", sandbox.MaxFileBytes)
	for source, content := range map[string]string{"text": text, "base64": base64.StdEncoding.EncodeToString([]byte(text))} {
		r := writeFiles.Call(t.Context(), map[string]any{"sandbox_id": letterID("sbx_", 0), "files": []any{map[string]any{"path": "f", source: content}}})
		toolstest.WantText(t, r, false, `"size":104857600`)
	}
}
