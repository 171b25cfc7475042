package tools

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools/render"
)

// subject is the kind of thing that a call is about. It selects the sentence about the next step after an error.
type subject int

const (
	subjectSandbox subject = iota
	subjectNewSandbox
	subjectExecution
	subjectFile
)

// nextStep is the table of sentences that suggest to a model what to call after an error. Kinds without an entry need
// no suggestion.
var nextStep = map[sandbox.Kind]map[subject]string{
	sandbox.NotFound: {
		subjectSandbox:    "list_sandboxes lists the sandboxes; execute_code without sandbox_id creates one.",
		subjectNewSandbox: "list_sandboxes lists the sandboxes. Without image, the sandbox has the default image.",
		subjectExecution:  "get_sandbox shows what runs in a sandbox. If its code never ran, call execute_code again.",
		subjectFile:       "list_sandboxes lists the sandboxes; execute_code can list the files in one (import os; os.listdir()).",
	},
	sandbox.Expired: {
		subjectSandbox:    "create_sandbox creates a new one, and so does execute_code without sandbox_id.",
		subjectNewSandbox: "Call create_sandbox without fork_of.",
		subjectExecution:  "Run the code again with execute_code.",
		subjectFile:       "Write the file again, in a new sandbox if this one has ended (execute_code without sandbox_id).",
	},
	sandbox.Busy: {
		subjectSandbox:    "Call again in a few seconds.",
		subjectNewSandbox: "Call again in a few seconds.",
		subjectExecution:  "Call again in a few seconds.",
		subjectFile:       "Call again in a few seconds.",
	},
	sandbox.Limit: {
		subjectSandbox:    "Wait for running code with get_execution, or stop some with interrupt_execution.",
		subjectNewSandbox: "Use an existing sandbox (list_sandboxes), or delete one that is no longer needed (delete_sandbox).",
		subjectExecution:  "Wait for running code with get_execution, or stop some with interrupt_execution.",
		subjectFile:       "Free space by deleting files with execute_code (os.remove), or use a sandbox with a larger memory_mb.",
	},
	sandbox.Unavailable: {
		subjectSandbox:    "Call again in a minute; if the error persists, ask the user to run: dormouse doctor.",
		subjectNewSandbox: "Call again in a minute; if the error persists, ask the user to run: dormouse doctor.",
		subjectExecution:  "Call again in a minute: the code may be running, and get_execution shows it.",
		subjectFile:       "Call again in a minute; if the error persists, ask the user to run: dormouse doctor.",
	},
}

// maxErrorMessage is the maximum size in bytes of one error's message in an answer.
const maxErrorMessage = 1_000

// failure returns an error as a result for the model: what happened, why, and what to call next. The text of an
// internal error is only logged, under a number that the result contains.
func (t *toolset) failure(ctx context.Context, about subject, err error) *mcp.CallToolResult {
	return render.Error(t.explain(ctx, about, err))
}

func (t *toolset) explain(ctx context.Context, about subject, err error) string {
	if ctx.Err() != nil {
		return "The call was cancelled. Code that has begun to run continues."
	}
	known, ok := errors.AsType[*sandbox.Error](err)
	if !ok || known.Kind == sandbox.Internal {
		number := rand.Text()[:8]
		t.log.Error("a tool call failed", "error_id", number, "error", err)
		return fmt.Sprintf("Dormouse had an internal error (number %s in its log). Call again; if the error persists, tell the user.", number)
	}
	return render.Sentence(render.Truncate(known.Message, maxErrorMessage), nextStep[known.Kind][about])
}
