package tools

import (
	"context"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools/render"
)

func (t *toolset) getExecution() Tool {
	return tool("get_execution", "Wait for or read an execution",
		"Waits for an execution that execute_code left running, and returns its output and result like execute_code. "+
			"Without offset: all so far, its middle cut when long. With the offset that the last answer named: what comes from there on.",
		params{
			executionParam(),
			waitParam(),
			{name: "offset", kind: integer, min: new(0.0), about: "Byte of printed text to begin at", example: "0"},
		},
		hints{readOnly: true, idempotent: true}, nil,
		func(ctx context.Context, a arguments) *mcp.CallToolResult {
			window, paging := wholeWindow(), a.has("offset")
			if paging {
				window = pageWindow(a.integer("offset", 0))
			}
			ex, err := t.await(ctx, a.text("execution_id"), a.number("wait_seconds", sandbox.DefaultWaitSeconds), window)
			if err != nil {
				return t.failure(ctx, subjectExecution, err)
			}
			return render.Execution(ctx, ex, render.View{Paging: paging}, t.pictures)
		})
}

func executionParam() param {
	return param{name: "execution_id", kind: text, required: true, example: `"exec_…"`}
}
