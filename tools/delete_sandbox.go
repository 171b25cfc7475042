package tools

import (
	"context"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools/render"
)

func (t *toolset) deleteSandbox() Tool {
	return tool("delete_sandbox", "Delete a sandbox",
		"Ends a sandbox now, with its variables, files and running code. This cannot be undone.",
		params{sandboxParam(true, "Id or display_name")},
		hints{destructive: true, idempotent: true}, rawSchema{"sandbox_id:string", "deleted:boolean"},
		func(ctx context.Context, a arguments) *mcp.CallToolResult {
			id, name, err := t.identify(ctx, a.text("sandbox_id"))
			if err == nil {
				err = t.sandboxes.Delete(ctx, string(id))
			}
			if err != nil {
				return t.failure(ctx, subjectSandbox, err)
			}
			return render.Structured("The sandbox is gone.", struct {
				SandboxID   sandbox.ID `json:"sandbox_id"`
				DisplayName string     `json:"display_name,omitempty"`
				Deleted     bool       `json:"deleted"`
			}{id, name, true})
		})
}
