package tools

import (
	"context"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
	"github.com/dormouse-sandbox/dormouse/tools/render"
)

// wholeWindow returns the window for an answer about the whole output so far: its beginning and its end.
func wholeWindow() sandbox.Window { return sandbox.Window{Head: 3000, Tail: 7000} }

// pageWindow returns the window for one page of the output, which begins at offset.
func pageWindow(offset int64) sandbox.Window { return sandbox.Window{Offset: offset, Head: 10000} }

// Progress is a function that receives progress reports while a tool call waits: how long the call has waited, and the
// last line that the code printed.
type Progress func(elapsed time.Duration, lastLine string)

type progressKey struct{}

// WithProgress returns a context in which tools call p about once a second while they wait for an execution. They do
// not call p concurrently, nor after they have returned.
func WithProgress(ctx context.Context, p Progress) context.Context {
	return context.WithValue(ctx, progressKey{}, p)
}

// Report calls the Progress function of ctx. It does nothing if ctx has none.
func Report(ctx context.Context, elapsed time.Duration, lastLine string) {
	if p, ok := ctx.Value(progressKey{}).(Progress); ok {
		p(elapsed, lastLine)
	}
}

// reports reports whether ctx has a Progress function.
func reports(ctx context.Context) bool { return ctx.Value(progressKey{}) != nil }

const (
	progressInterval = 1.0  // the time between two progress reports, in seconds
	progressText     = 2000 // the maximum number of bytes of new text that the method follow reads for one report

	// firstWait is the part of a call's wait, in seconds, that is spent in the request that starts the execution. If the rest
	// of the wait fails, for example because the server stops, the answer still contains the execution's id.
	firstWait = 1.0
)

// execute starts an execution in the sandbox called name, and waits at most r.WaitSeconds for the execution to end.
func (t *toolset) execute(ctx context.Context, name string, r sandbox.ExecuteRequest) (sandbox.Execution, error) {
	wait, begun := wire.WaitAllowed(ctx, r.WaitSeconds), time.Now()
	r.WaitSeconds = min(wait, firstWait)
	ex, err := t.sandboxes.Execute(ctx, name, r)
	return t.finish(ctx, ex, err, wait, begun, r.Window)
}

// await waits at most wait seconds for the end of an execution that was started before.
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

// finish is the common end of execute and await. ex and err are the results of Execute or GetExecution, which may have
// waited for a part of the time only. finish continues the wait until wait seconds have passed since begun. It then calls
// [wire.WorkAllowed], and returns the latest state of the execution with the output in the window w. If the daemon cannot
// return the latest state, finish returns ex, so that the caller still has the id of the running execution.
func (t *toolset) finish(ctx context.Context, ex sandbox.Execution, err error, wait float64, begun time.Time, w sandbox.Window) (sandbox.Execution, error) {
	if err != nil {
		return ex, err
	}
	stale := !ex.State.Final() && time.Since(begun).Seconds() < wait
	if stale {
		t.follow(ctx, ex, wait, begun)
	}
	if ctx.Err() != nil {
		return ex, ctx.Err()
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

// follow waits for the end of an execution, but only until wait seconds have passed since begun. If the tool call reports
// progress, it waits in steps of progressInterval and reports progress before each step. A step reads no output while it
// waits. After the wait it reads only new text, and only if there is any. The reason is that an execution's values can have
// many MiB and a window contains all values at or after its offset: without new text, reading the window would transfer the
// values at its end again.
func (t *toolset) follow(ctx context.Context, ex sandbox.Execution, wait float64, begun time.Time) {
	if !reports(ctx) {
		_, _ = t.sandboxes.GetExecution(ctx, string(ex.ID), wait-time.Since(begun).Seconds(), sandbox.NoOutput)
		return
	}
	line, read := render.LastLine(ex.Events), ex.OutputBytes
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
		if s := render.LastLine(ex.Events); s != "" {
			line = s
		}
		// Without this pause, a daemon that answers without waiting would make this a busy loop.
		if pause := time.Duration(min(left, progressInterval)*float64(time.Second)) - time.Since(stepBegun); !ex.State.Final() && pause > 0 {
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
		}
	}
}
