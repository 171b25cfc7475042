package tools

import (
	"context"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools/render"
)

func (t *toolset) getSandbox() Tool {
	return tool("get_sandbox", "Look at a sandbox",
		"Shows a sandbox: state, times, limits, usage, kernels with kernel_epoch, running executions.",
		params{sandboxParam(true, "Id or display_name")},
		hints{readOnly: true, idempotent: true}, sandboxSchema,
		func(ctx context.Context, a arguments) *mcp.CallToolResult {
			s, err := t.sandboxes.Get(ctx, a.text("sandbox_id"))
			if err != nil {
				return t.failure(ctx, subjectSandbox, err)
			}
			return render.Sandbox(render.DescribeSandbox(s), s)
		})
}

// identify returns the id of the sandbox that a call names. Answers use the id, because it stays correct after the
// sandbox is renamed or deleted. If name is an id, displayName is empty.
func (t *toolset) identify(ctx context.Context, name string) (id sandbox.ID, displayName string, err error) {
	if sandbox.IsID(name) {
		return sandbox.ID(name), "", nil
	}
	s, err := t.sandboxes.Get(ctx, name)
	return s.ID, s.DisplayName, err
}
