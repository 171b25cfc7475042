package tools_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools"
)

// reader is a fake daemon that counts the values that it sends.
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

// A waiting call reads the values of an execution once, at its end, and not with every progress report.
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
		wantText(t, r, false, "succeeded in 30 s", "display:")
		if reports < 20 || d.values > values {
			t.Errorf("%d reports and %d values read, want about 30 and at most %d", reports, d.values, values)
		}
	})
}
