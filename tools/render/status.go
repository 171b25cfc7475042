package render

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// StatusLine returns one or two sentences about the state of an execution and what that means for the variables. newSandbox
// is true if the call created the sandbox.
func StatusLine(ex sandbox.Execution, newSandbox bool, now time.Time) string {
	made := ""
	if newSandbox {
		made = "new "
	}
	where := fmt.Sprintf("%ssandbox %s, %s", made, ex.SandboxID, ex.Language)
	if ex.KernelEpoch > 0 {
		where += fmt.Sprintf(", kernel_epoch %d", ex.KernelEpoch)
	}
	clause, more := outcome(ex, now)
	return fmt.Sprintf("Execution %s %s (%s).", ex.ID, clause, where) + after(more)
}

// outcome returns a clause about the execution's state, and full sentences to write after it.
func outcome(ex sandbox.Execution, now time.Time) (clause, more string) {
	took := elapsed(ex, now)
	switch ex.State {
	case sandbox.ExecQueued:
		return "is queued: the kernel is starting, or it is busy with another execution", ""
	case sandbox.ExecRunning:
		return "is still running after " + took, ""
	case sandbox.ExecSucceeded:
		return "succeeded in " + took, reasonSentence(ex.Reason)
	case sandbox.ExecFailed:
		return "failed after " + took + ": the code raised an error", strings.TrimSpace(reasonSentence(ex.Reason) + " Variables are kept.")
	case sandbox.ExecInterrupted:
		if ex.StartTime.IsZero() {
			return "was interrupted before it began", "None of its code ran."
		}
		return "was interrupted after " + took, describeStop(ex)
	case sandbox.ExecTimedOut:
		return fmt.Sprintf("was stopped after timeout_seconds (%d)", ex.TimeoutSeconds), describeStop(ex)
	case sandbox.ExecKernelDied:
		return "ended after " + took + " because its kernel died: " + death(ex.Death), variablesLost(ex)
	case sandbox.ExecLost:
		return "was lost", strings.TrimSpace(reasonSentence(ex.Reason) + " Run the code again with execute_code if it is still needed.")
	}
	return "is in the state " + strconv.Quote(oneLine(string(ex.State), 40)), ""
}

// losses returns sentences about variables and files that were lost between the previous execution and this one.
func losses(since *sandbox.Interlude) (sentences []string) {
	if since == nil {
		return nil
	}
	if !since.AsOf.IsZero() {
		sentences = append(sentences, fmt.Sprintf("The sandbox's processes died before this execution, because the machine or gVisor stopped. The variables and files were restored as they had been at %s. Later changes are lost: make them again if you need them.",
			since.AsOf.UTC().Format("2006-01-02 15:04:05 UTC")))
	}
	if since.Death != nil {
		sentences = append(sentences, "The kernel died before this execution, while no code ran: "+death(since.Death)+". The variables of earlier executions are lost, files are kept.")
	}
	return sentences
}

// describeStop returns sentences about how an execution was stopped and whether the variables are kept.
func describeStop(ex sandbox.Execution) string {
	switch ex.StoppedBy {
	case "SIGINT", "":
		return "Variables are kept."
	}
	return "It did not react to SIGINT, so its kernel was ended with " + oneLine(ex.StoppedBy, 20) + ". " + variablesLost(ex)
}

func variablesLost(ex sandbox.Execution) string {
	s := "Variables are lost, files are kept; the next execution has a new kernel"
	if ex.KernelEpoch > 0 {
		s += fmt.Sprintf(" (kernel_epoch %d)", ex.KernelEpoch+1)
	}
	return s + "."
}

// death returns a clause about why a kernel died.
func death(d *sandbox.KernelDeath) string {
	if d == nil {
		return "the cause is unknown"
	}
	var s string
	switch d.Cause {
	case sandbox.DiedOutOfMemory:
		s = "it ran out of memory"
	case sandbox.DiedExit:
		s = fmt.Sprintf("the code ended it with exit code %d", d.ExitCode)
	case sandbox.DiedSignal:
		s = "signal " + oneLine(d.Signal, 20)
	case sandbox.DiedStopped:
		s = "it had to be stopped"
	case sandbox.DiedStart:
		s = "it did not start"
	default:
		s = "the cause is unknown"
	}
	if d.Detail != "" {
		s += " (" + strings.TrimSuffix(oneLine(d.Detail, 300), ".") + ")"
	}
	return s
}

func elapsed(ex sandbox.Execution, now time.Time) string {
	end := ex.EndTime
	if end.IsZero() {
		end = now
	}
	start := ex.StartTime
	if start.IsZero() {
		start = ex.CreateTime
	}
	return seconds(max(0, end.Sub(start)))
}

// seconds formats a duration with a precision that depends on its length.
func seconds(d time.Duration) string {
	switch s := d.Seconds(); {
	case s < 10:
		return fmt.Sprintf("%.2f s", s)
	case s < 120:
		return fmt.Sprintf("%.0f s", s)
	}
	return d.Round(time.Second).String()
}

// LastLine returns the last line of printed text, cleaned and cut to 200 bytes, or "" if there is none.
func LastLine(events []sandbox.Event) string {
	for i := len(events) - 1; i >= 0; i-- {
		if e := events[i]; e.Type == sandbox.EventStdout || e.Type == sandbox.EventStderr {
			s := strings.TrimRight(collapseReturns(e.Text), "\n \t")
			if s == "" {
				continue
			}
			return oneLine(s[strings.LastIndexByte(s, '\n')+1:], 200)
		}
	}
	return ""
}
