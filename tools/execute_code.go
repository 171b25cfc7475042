package tools

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools/render"
)

// languages contains the names of the languages for schemas.
var languages = func() (names []string) {
	for _, l := range sandbox.Languages {
		names = append(names, string(l))
	}
	return names
}()

func (t *toolset) executeCode() Tool {
	return tool("execute_code", "Run code",
		"Runs code in a sandbox whose variables, imports and files stay for the next call. Returns what it prints, the last expression's value, "+
			"plots as images, and the files it wrote. Without sandbox_id it makes a sandbox and names it: pass that id next time. "+
			"If the code is not done after wait_seconds, it goes on and the answer has an execution_id for get_execution.",
		params{
			{name: "code", kind: text, required: true, about: "A cell, as in Jupyter: top-level await, !shell commands in Python", example: `"print(1 + 1)"`},
			sandboxParam(false, "Id or display_name. None: a new sandbox"),
			{name: "language", kind: text, enum: languages, about: "Default: the sandbox's", example: `"python"`},
			{name: filesName, kind: fileList, about: "Written to /workspace before the code runs; each has path and one of text, base64, local_path", example: filesExample},
			{name: "timeout_seconds", kind: integer, min: new(1.0), max: new(float64(sandbox.MaxTimeoutSeconds)), about: "Default 600. Then the code is interrupted; variables are kept", example: "600"},
			waitParam(),
			{name: "request_id", kind: text, about: "Your own unique id: a retry with it returns the first run and runs nothing again", example: `"load-data-1"`},
		},
		hints{}, nil, t.callExecuteCode)
}

// sandboxParam returns the declaration of the parameter sandbox_id.
func sandboxParam(required bool, about string) param {
	return param{name: "sandbox_id", kind: text, required: required, about: about, example: `"sbx_…"`}
}

func waitParam() param {
	return param{name: "wait_seconds", kind: number, min: new(0.0), max: new(float64(sandbox.MaxWaitSeconds)), about: "How long to wait for the end. Default 45", example: "45"}
}

func (t *toolset) callExecuteCode(ctx context.Context, a arguments) *mcp.CallToolResult {
	r := sandbox.ExecuteRequest{
		Code:           a.text("code"),
		Language:       sandbox.Language(a.text("language")),
		TimeoutSeconds: new(int(a.integer("timeout_seconds", sandbox.DefaultTimeoutSeconds))),
		RequestID:      a.text("request_id"),
		WaitSeconds:    a.number("wait_seconds", sandbox.DefaultWaitSeconds),
		Window:         wholeWindow(),
	}
	// Invalid arguments must be rejected before a sandbox is created.
	if err := r.Validate(""); err != nil {
		return t.failure(ctx, subjectSandbox, err)
	}
	if r.RequestID != "" {
		if answer := t.earlierAnswer(ctx, r); answer != nil {
			return answer
		}
	}
	name, newSandbox := a.text("sandbox_id"), false
	if name == "" {
		made, err := t.sandboxes.Create(ctx, sandbox.CreateRequest{Language: r.Language, RequestID: createRequestID(r.RequestID)})
		if err != nil {
			return t.failure(ctx, subjectNewSandbox, err)
		}
		name, newSandbox = string(made.ID), true
	}
	if _, err := t.writeAll(ctx, name, a.files()); err != nil {
		words := t.explainFiles(ctx, err) + " The code was not run."
		return render.Error(words + t.abandon(ctx, name, newSandbox, r.RequestID, true))
	}
	clientRequestID := r.RequestID
	if clientRequestID == "" {
		r.RequestID = "call:" + rand.Text() // if the call is cancelled, interruptUnwanted finds the execution by this id
	}
	ex, err := t.execute(ctx, name, r)
	t.interruptUnwanted(ctx, r.RequestID)
	if err != nil {
		refused := sandbox.KindOf(err) == sandbox.Invalid // the daemon rejected the request, so nothing runs in the sandbox
		return render.Error(t.explain(ctx, subjectSandbox, err) + t.abandon(ctx, name, newSandbox, clientRequestID, refused))
	}
	return render.Execution(ctx, ex, render.View{NewSandbox: newSandbox}, t.pictures)
}

// earlierAnswer returns the answer about the execution that an earlier call started with the same request id, or nil if
// there is none.
func (t *toolset) earlierAnswer(ctx context.Context, r sandbox.ExecuteRequest) *mcp.CallToolResult {
	ex, err := t.sandboxes.FindExecution(ctx, r.RequestID)
	if err == nil {
		ex, err = t.await(ctx, string(ex.ID), r.WaitSeconds, r.Window)
	} else if sandbox.KindOf(err) == sandbox.NotFound {
		return nil
	}
	if err != nil {
		return t.failure(ctx, subjectExecution, err)
	}
	return render.Execution(ctx, ex, render.View{Again: true}, t.pictures)
}

// createRequestID derives the request id for creating a sandbox from the request id of an execute_code call. A retry of
// the call then gets the sandbox of the first call, even if the first call failed before it ran the code.
func createRequestID(id string) string {
	const prefix = "exec:"
	if id == "" {
		return ""
	}
	if len(prefix)+len(id) > sandbox.MaxRequestID {
		sum := sha256.Sum256([]byte(id))
		id = hex.EncodeToString(sum[:])
	}
	return prefix + id
}

// abandon deletes a sandbox if a failed call created it (newSandbox is true), no code runs in it, and the call has no
// request id. If the call has a request id, abandon keeps the sandbox, because a retry with that id uses it. The result
// is a sentence for the answer that reports the deletion or names the sandbox that is kept. It is empty if newSandbox is
// false.
func (t *toolset) abandon(ctx context.Context, name string, newSandbox bool, requestID string, nothingRuns bool) string {
	if !newSandbox {
		return ""
	}
	if requestID == "" && nothingRuns {
		// The sandbox must be deleted even if the call was cancelled.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		if t.sandboxes.Delete(ctx, name) == nil {
			return " The sandbox that was created for this call was deleted."
		}
	}
	return " The sandbox " + name + " was created for this call and still exists: pass it as sandbox_id, or call delete_sandbox."
}
