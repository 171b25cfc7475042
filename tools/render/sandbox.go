package render

import (
	"fmt"
	"slices"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/mark3labs/mcp-go/mcp"
)

// Limits of the lists in an answer about a sandbox.
const (
	maxExecutionsShown = 20
	maxKernelsShown    = 8 // more than there are languages
)

// Sandbox returns the answer of a management tool about a sandbox: words, a sentence about executions that are not shown,
// and the sandbox as JSON.
func Sandbox(words string, s sandbox.Sandbox) *mcp.CallToolResult {
	if more := len(s.Executions) - maxExecutionsShown; more > 0 {
		words += fmt.Sprintf(" %d more executions wait and are not shown.", more)
	}
	return Structured(words, shorten(s))
}

// shorten returns a copy of a sandbox whose lists and texts are short enough for an answer. It omits the output and
// errors of executions, which get_execution returns.
func shorten(s sandbox.Sandbox) sandbox.Sandbox {
	s.Reason = Truncate(s.Reason, MaxReason)
	s.Kernels = slices.Clone(s.Kernels[:min(len(s.Kernels), maxKernelsShown)])
	for i, k := range s.Kernels {
		if k.LastDeath != nil {
			death := *k.LastDeath
			death.Detail = Truncate(death.Detail, MaxReason)
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

// DescribeSandbox returns sentences for a model about a sandbox's state, when it expires, and whether it lost recent
// changes.
func DescribeSandbox(s sandbox.Sandbox) string {
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
		rewind = fmt.Sprintf(" Its processes died, and it was restored to its state as of %s: later changes are lost.", s.RewoundTo.UTC().Format("2006-01-02 15:04:05 UTC"))
	}
	return fmt.Sprintf("Sandbox %s is %s%s. It ends in %s.%s", s.ID, s.State, suspension, max(0, time.Until(s.ExpireTime).Round(time.Second)), rewind)
}
