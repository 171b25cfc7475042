package tools

import (
	"context"

	"github.com/mark3labs/mcp-go/mcp"
)

func (t *toolset) deleteSandbox() Tool {
	return tool("delete_sandbox", "Delete a sandbox",
		"Ends a sandbox now, with its variables, files and running code. This cannot be undone.",
		params{sandboxParam(true, "Id or display_name")},
		hints{destructive: true, idempotent: true}, rawSchema{"sandbox_id:string", "deleted:boolean"},
		func(ctx context.Context, a arguments) *mcp.CallToolResult {
			name := a.text("sandbox_id")
			if err := t.sandboxes.Delete(ctx, name); err != nil {
				return t.failure(ctx, aSandbox, err)
			}
			return structured("The sandbox is gone.", struct {
				SandboxID string `json:"sandbox_id"`
				Deleted   bool   `json:"deleted"`
			}{name, true})
		})
}
