package tools

import (
	"context"
	"errors"
	"fmt"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools/render"
)

func (t *toolset) writeFiles() Tool {
	return tool("write_files", "Write files to a sandbox",
		"Writes files to a sandbox's /workspace, replacing those that are there. Returns their sizes and sha256. At most 100 files of 100 MiB.",
		params{
			sandboxParam(true, ""),
			{name: filesName, kind: fileList, required: true, about: "Each has path and one of text, base64, local_path", example: filesExample},
		},
		hints{idempotent: true}, rawSchema{"files:array", "sandbox_id:string"},
		func(ctx context.Context, a arguments) *mcp.CallToolResult {
			if len(a.files()) == 0 {
				return render.Error("files is an empty list: there is nothing to write")
			}
			id, _, err := t.identify(ctx, a.text("sandbox_id"))
			if err != nil {
				return t.failure(ctx, subjectFile, err)
			}
			written, err := t.writeAll(ctx, string(id), a.files())
			if err != nil {
				return render.Error(t.explainFiles(ctx, err))
			}
			n := render.Fitting(written)
			answer := struct {
				SandboxID sandbox.ID     `json:"sandbox_id"`
				Files     []sandbox.File `json:"files"`
			}{id, written[:n]}
			words := fmt.Sprintf("%d files written.", len(written))
			if len(written) == 1 {
				words = "1 file written."
			}
			if n < len(written) {
				words += fmt.Sprintf(" The first %d are listed.", n)
			}
			return render.Structured(words, answer)
		})
}

// explainFiles returns sentences for a model about an error of writeAll: why a file was not written, and which files
// were written before it.
func (t *toolset) explainFiles(ctx context.Context, err error) string {
	words := t.explain(ctx, subjectFile, err)
	if e, ok := errors.AsType[*filesError](err); ok {
		words = render.QuotePath(e.failed) + " was not written: " + t.explain(ctx, subjectFile, e.cause) + e.progress()
	}
	return words
}
