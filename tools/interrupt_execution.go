package tools

import (
	"context"
	"fmt"
	"time"

	"github.com/dormouse-sandbox/dormouse/tools/render"
	"github.com/mark3labs/mcp-go/mcp"
)

// interruptExecution returns the tool interrupt_execution. Like all tools about executions, it answers without structured
// content.
func (t *toolset) interruptExecution() Tool {
	return tool("interrupt_execution", "Stop running code",
		"Stops running or queued code, like Ctrl-C; variables are kept, unless the code ignores it and the kernel must be ended (the answer says which).",
		params{executionParam()},
		hints{idempotent: true}, nil,
		func(ctx context.Context, a arguments) *mcp.CallToolResult {
			ex, err := t.sandboxes.Interrupt(ctx, a.text("execution_id"))
			if err != nil {
				return t.failure(ctx, subjectExecution, err)
			}
			s := render.StatusLine(ex, false, time.Now())
			if ex.OutputBytes > 0 {
				s += fmt.Sprintf("\nget_execution(execution_id=%q) returns what it had printed.", ex.ID)
			}
			return render.Text(s)
		})
}
