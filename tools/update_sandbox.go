package tools

import (
	"context"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools/render"
)

func (t *toolset) updateSandbox() Tool {
	return tool("update_sandbox", "Change a sandbox",
		"Gives a sandbox a new ttl, which counts from now, or a new name.",
		params{
			sandboxParam(true, "Id or display_name"),
			ttlParam("Such as 2h or 7d; at most 14d"),
			{name: "display_name", kind: text, example: `"sales-analysis"`},
		},
		hints{idempotent: true}, sandboxSchema,
		func(ctx context.Context, a arguments) *mcp.CallToolResult {
			var r sandbox.UpdateRequest
			if ttl, ok := a.duration("ttl"); ok {
				r.TTL = &ttl
			}
			if a.has("display_name") {
				r.DisplayName = new(a.text("display_name"))
			}
			if err := r.Validate(); err != nil {
				return t.failure(ctx, subjectSandbox, err)
			}
			s, err := t.sandboxes.Update(ctx, a.text("sandbox_id"), r)
			if err != nil {
				return t.failure(ctx, subjectSandbox, err)
			}
			return render.Sandbox("Changed. "+render.DescribeSandbox(s), s)
		})
}
