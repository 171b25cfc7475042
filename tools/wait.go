package tools

import (
	"context"
	"strings"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
)

// Windows of an execution's text: the whole so far, and a page in sequence.
func wholeWindow() sandbox.Window { return sandbox.Window{Head: 3000, Tail: 7000} }

func pageWindow(offset int64) sandbox.Window { return sandbox.Window{Offset: offset, Head: 10000} }

// Progress is told while a call waits: how long it has waited, and the last line that
// the code printed.
type Progress func(elapsed time.Duration, lastLine string)

type progressKey struct{}

// WithProgress returns a context in which tools that wait report progress, about
// once a second. They never report after they have returned.
func WithProgress(ctx context.Context, p Progress) context.Context {
	return context.WithValue(ctx, progressKey{}, p)
}

// Report tells whoever gave ctx, if anybody, how far a call has come.
func Report(ctx context.Context, elapsed time.Duration, lastLine string) {
	if p, ok := ctx.Value(progressKey{}).(Progress); ok {
		p(elapsed, lastLine)
	}
}

// reports says whether somebody wants to know.
func reports(ctx context.Context) bool { return ctx.Value(progressKey{}) != nil }

const (
	progressInterval = 1.0  // seconds
	progressText     = 2000 // bytes of new text that a step reads for its report
)

// execute starts an execution and waits for its end as long as the request says.
func (t *toolset) execute(ctx context.Context, name string, r sandbox.ExecuteRequest) (sandbox.Execution, error) {
	r.WaitSeconds = wire.WaitAllowed(ctx, r.WaitSeconds)
	wait, begun := r.WaitSeconds, time.Now()
	if reports(ctx) {
		r.WaitSeconds = min(wait, progressInterval)
	}
	ex, err := t.sandboxes.Execute(ctx, name, r)
	return t.finish(ctx, ex, err, wait, begun, r.Window)
}

// await waits for the end of an execution that was started before.
func (t *toolset) await(ctx context.Context, id string, wait float64, w sandbox.Window) (sandbox.Execution, error) {
	begun := time.Now()
	wait = wire.WaitAllowed(ctx, wait)
	first := wait
	if reports(ctx) {
		first = min(wait, progressInterval)
	}
	ex, err := t.sandboxes.GetExecution(ctx, id, first, w)
	return t.finish(ctx, ex, err, wait, begun, w)
}

// finish waits until wait seconds after begun if the call reports progress, and makes sure that the call may work. If the execution can't be read
// at the end, finish returns ex, so that the caller still has the id of the running execution.
func (t *toolset) finish(ctx context.Context, ex sandbox.Execution, err error, wait float64, begun time.Time, w sandbox.Window) (sandbox.Execution, error) {
	if err != nil {
		return ex, err
	}
	stale := reports(ctx) && !ex.State.Final()
	if stale {
		t.follow(ctx, ex, wait, begun)
	}
	if !wire.WorkAllowed(ctx) {
		return ex, sandbox.Errorf(sandbox.Limit, "the server has too many calls at work to show execution %s now. Do not run its code again: call get_execution(execution_id=%q)", ex.ID, ex.ID)
	}
	if stale {
		if latest, err := t.sandboxes.GetExecution(ctx, string(ex.ID), 0, w); err == nil {
			return latest, nil
		}
	}
	return ex, nil
}

// follow waits in steps and reports progress between them. A step reads no output while it waits, and then only new text, if there is any.
// An execution's values can have many MiB, and a window contains all values at or after its offset: a step that printed nothing must
// not read those at the end again.
func (t *toolset) follow(ctx context.Context, ex sandbox.Execution, wait float64, begun time.Time) {
	line, read := lastLine(ex.Events), ex.OutputBytes
	for !ex.State.Final() {
		left := wait - time.Since(begun).Seconds()
		if left <= 0 {
			break
		}
		Report(ctx, time.Since(begun), line)
		stepBegun := time.Now()
		latest, err := t.sandboxes.GetExecution(ctx, string(ex.ID), min(left, progressInterval), sandbox.NoOutput)
		if err == nil && !latest.State.Final() && latest.OutputBytes > read {
			latest, err = t.sandboxes.GetExecution(ctx, string(ex.ID), 0, sandbox.Window{Offset: max(read, latest.OutputBytes-progressText), Tail: progressText})
			read = max(read, latest.OutputBytes)
		}
		if err != nil {
			break
		}
		ex = latest
		if s := lastLine(ex.Events); s != "" {
			line = s
		}
		// A daemon that answers at once must not make this a busy loop.
		if pause := time.Duration(min(left, progressInterval)*float64(time.Second)) - time.Since(stepBegun); !ex.State.Final() && pause > 0 {
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
		}
	}
}

// lastLine returns the last line that was printed, short and clean.
func lastLine(events []sandbox.Event) string {
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
