package tools_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools"
	"github.com/dormouse-sandbox/dormouse/tools/toolstest"
)

// reader is a fake daemon that counts the displays and results that GetExecution returns.
type reader struct {
	*double
	values int
}

func (r *reader) GetExecution(ctx context.Context, id string, wait float64, w sandbox.Window) (sandbox.Execution, error) {
	ex, err := r.double.GetExecution(ctx, id, wait, w)
	for _, e := range ex.Events {
		if e.Data != nil {
			r.values++
		}
	}
	return ex, err
}

// TestWaitingReadsValuesOnce checks that a waiting call reads the values of an execution only once, at its end, and not
// for each progress report.
func TestWaitingReadsValuesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const values = 50
		d := &reader{double: newDouble()}
		events := []sandbox.Event{out("step 1\n")}
		for range values {
			events = append(events, display(plain(strings.Repeat("x", 1000))))
		}
		d.scripts["slow"] = sandbox.Execution{Events: events}
		d.after["slow"] = 30 * time.Second
		reports := 0
		ctx := tools.WithProgress(t.Context(), func(_ time.Duration, line string) {
			if reports++; line != "step 1" {
				t.Errorf("report %d: %q, want the last line that was printed", reports, line)
			}
		})
		r := callContext(ctx, t, tools.New(d, tools.Config{}), "execute_code", args{"code": "slow"})
		toolstest.WantText(t, r, false, "succeeded in 30 s", "display:")
		if reports < 20 || d.values > values {
			t.Errorf("%d reports and %d values read, want about 30 and at most %d", reports, d.values, values)
		}
	})
}

// printer is a fake daemon whose executions print each event at the event's Time.
type printer struct{ *reader }

func (p printer) Execute(ctx context.Context, name string, r sandbox.ExecuteRequest) (sandbox.Execution, error) {
	wait := r.WaitSeconds
	r.WaitSeconds = 0
	ex, err := p.double.Execute(ctx, name, r)
	if err != nil {
		return ex, err
	}
	return p.GetExecution(ctx, string(ex.ID), wait, r.Window)
}

func (p printer) GetExecution(ctx context.Context, id string, wait float64, w sandbox.Window) (sandbox.Execution, error) {
	ex, err := p.double.GetExecution(ctx, id, wait, sandbox.Window{})
	if err != nil {
		return ex, err
	}
	if i := slices.IndexFunc(ex.Events, func(e sandbox.Event) bool { return e.Time.After(time.Now()) }); i >= 0 {
		ex.OutputBytes, ex.Events = ex.Events[i].Offset, ex.Events[:i]
	}
	ex.Events, ex.NextOffset = window(ex.Events, ex.OutputBytes, w)
	for _, e := range ex.Events {
		if e.Data != nil {
			p.values++
		}
	}
	return ex, nil
}

func TestProgressReportsWholeLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const steps = 20
		d := printer{&reader{double: newDouble()}}
		var events []sandbox.Event
		for i := range steps {
			at := time.Now().Add(time.Duration(i)*time.Second + 500*time.Millisecond)
			text, value := out(fmt.Sprintf("step %d\n", i)), display(plain("value"))
			text.Time, value.Time = at, at
			events = append(events, text, value)
		}
		d.scripts["slow"] = sandbox.Execution{Events: events}
		d.after["slow"] = steps * time.Second
		var lines []string
		ctx := tools.WithProgress(t.Context(), func(_ time.Duration, line string) { lines = append(lines, line) })
		r := callContext(ctx, t, tools.New(d, tools.Config{}), "execute_code", args{"code": "slow"})
		toolstest.WantText(t, r, false, "succeeded in 20 s", "step 19")
		if len(lines) < steps-2 {
			t.Errorf("got %d reports, want about %d", len(lines), steps)
		}
		for _, line := range lines {
			if !strings.HasPrefix(line, "step ") {
				t.Errorf("got a report of %q, want a whole line", line)
			}
		}
		if d.values > 4*steps {
			t.Errorf("%d values were read, want at most %d", d.values, 4*steps)
		}
	})
}

// TestProgress checks that a call reports progress about once a second while it waits, and not after it has returned.
func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDouble()
		d.scripts["slow"] = sandbox.Execution{Events: []sandbox.Event{out("step 1\nstep 2\x1b[0m\n")}}
		d.after["slow"] = 10500 * time.Millisecond
		reports, returned := 0, false
		ctx := tools.WithProgress(t.Context(), func(_ time.Duration, line string) {
			reports++
			if line != "step 2" || returned {
				t.Errorf("report %d: %q, after the answer: %v", reports, line, returned)
			}
		})
		begun := time.Now()
		r := callContext(ctx, t, tools.New(d, tools.Config{}), "execute_code", args{"code": "slow"})
		returned = true
		toolstest.WantText(t, r, false, "succeeded in 10 s")
		if waited := time.Since(begun); waited != 10500*time.Millisecond {
			t.Errorf("waited %v, want no longer than the execution takes", waited)
		}
		if reports != 10 {
			t.Errorf("%d reports, want 10", reports)
		}
	})
}

// stoppedServer is a fake daemon behind a server that stops during the first long wait.
type stoppedServer struct{ *double }

func (s stoppedServer) GetExecution(ctx context.Context, id string, wait float64, w sandbox.Window) (sandbox.Execution, error) {
	if wait > 1 {
		return sandbox.Execution{}, sandbox.Errorf(sandbox.Unavailable, "the server is stopping")
	}
	return s.double.GetExecution(ctx, id, wait, w)
}

// TestStoppedWaitKeepsTheExecutionID checks that the answer contains the execution's id if the server stops during the wait.
func TestStoppedWaitKeepsTheExecutionID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDouble()
		d.scripts["slow"] = sandbox.Execution{Events: []sandbox.Event{out("step 1\n")}}
		d.after["slow"] = time.Minute
		r := call(t, tools.New(stoppedServer{d}, tools.Config{}), "execute_code", args{"code": "slow"})
		toolstest.WantText(t, r, false, "is still running after 1.00 s", "step 1", `get_execution(execution_id="`+letterID("exec_", 0))
	})
}
