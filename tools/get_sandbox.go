package tools

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
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
			words := describeSandbox(s)
			if more := len(s.Executions) - maxExecutionsShown; more > 0 {
				words += fmt.Sprintf(" %d more executions wait and are not shown.", more)
			}
			return structured(words, shorten(s))
		})
}

const maxExecutionsShown = 20

// shorten returns a copy of a sandbox whose lists and texts are short enough for an answer. It omits the output and
// errors of executions, which get_execution returns.
func shorten(s sandbox.Sandbox) sandbox.Sandbox {
	s.Reason = truncate(s.Reason, maxReason)
	s.Kernels = slices.Clone(s.Kernels[:min(len(s.Kernels), len(languages))])
	for i, k := range s.Kernels {
		if k.LastDeath != nil {
			death := *k.LastDeath
			death.Detail = truncate(death.Detail, maxReason)
			s.Kernels[i].LastDeath = &death
		}
	}
	s.Executions = slices.Clone(s.Executions[:min(len(s.Executions), maxExecutionsShown)])
	for i, e := range s.Executions {
		s.Executions[i] = sandbox.Execution{ID: e.ID, SandboxID: e.SandboxID, Language: e.Language, State: e.State, KernelEpoch: e.KernelEpoch,
			TimeoutSeconds: e.TimeoutSeconds, CreateTime: e.CreateTime, StartTime: e.StartTime, OutputBytes: e.OutputBytes, NextOffset: e.NextOffset}
	}
	return s
}

// describeSandbox returns sentences for a model about a sandbox's state, when it expires, and whether it lost recent
// changes.
func describeSandbox(s sandbox.Sandbox) string {
	if s.State == sandbox.Terminated {
		return fmt.Sprintf("Sandbox %s has ended.%s", s.ID, after(reasonSentence(s.Reason)))
	}
	suspension, rewind := "", ""
	if s.State == sandbox.Suspended {
		suspension = " on disk, with its variables; the next call that needs it resumes it"
		if s.SuspendedTo == "pause" {
			suspension = " (paused, in memory), with its variables; the next call that needs it resumes it"
		}
	}
	if !s.RewoundTo.IsZero() {
		rewind = fmt.Sprintf(" Its processes had died, and it went back to its state as of %s: what was done after that, until they died, is lost.", s.RewoundTo.UTC().Format("2006-01-02 15:04:05 UTC"))
	}
	return fmt.Sprintf("Sandbox %s is %s%s. It ends in %s.%s", s.ID, s.State, suspension, max(0, time.Until(s.ExpireTime).Round(time.Second)), rewind)
}

// identify returns the id of the sandbox that a call names. Answers use the id, because it stays correct after the
// sandbox is renamed or deleted. If name is a display name, identify also returns that; if name is an id, displayName
// is empty.
func (t *toolset) identify(ctx context.Context, name string) (id sandbox.ID, displayName string, err error) {
	if sandbox.IsID(name) {
		return sandbox.ID(name), "", nil
	}
	s, err := t.sandboxes.Get(ctx, name)
	return s.ID, s.DisplayName, err
}
