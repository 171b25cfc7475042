package tools_test

import (
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools"
	"github.com/dormouse-sandbox/dormouse/tools/toolstest"
)

// TestGetSuspendedSandbox checks that the answer about a suspended sandbox mentions that the variables are kept, and
// reports the loss of recent changes.
func TestGetSuspendedSandbox(t *testing.T) {
	d := newDouble()
	list := tools.New(d, tools.Config{})
	call(t, list, "create_sandbox", args{"display_name": "mine"})
	d.sandboxes[0].State = sandbox.Suspended
	toolstest.WantText(t, call(t, list, "get_sandbox", args{"sandbox_id": "mine"}), false, "is suspended on disk, with its variables; the next call")
	d.sandboxes[0].SuspendedTo, d.sandboxes[0].RewoundTo = "pause", time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	toolstest.WantText(t, call(t, list, "get_sandbox", args{"sandbox_id": "mine"}), false, "paused, in memory", "restored to its state as of 2026-01-02 03:04:05 UTC")
}

// TestAnswersNameTheSandboxByID checks that answers contain the sandbox's id, even if the call uses the display name.
func TestAnswersNameTheSandboxByID(t *testing.T) {
	list := tools.New(newDouble(), tools.Config{})
	call(t, list, "create_sandbox", args{"display_name": "mine"})
	id := letterID("sbx_", 0)
	for _, c := range []struct {
		tool      string
		args      args
		wantWords []string
	}{
		{"get_sandbox", nil, []string{`"id":"` + id}},
		{"update_sandbox", args{"ttl": "1d12h"}, []string{`"id":"` + id, "36h0m0s"}},
		{"execute_code", args{"code": "1"}, []string{"sandbox " + id}},
		{"write_files", args{"files": []args{{"path": "a", "text": "x"}}}, []string{`"sandbox_id":"` + id}},
		{"list_sandboxes", nil, []string{"1 sandbox.", `"id":"` + id}},
		{"delete_sandbox", nil, []string{`"sandbox_id":"` + id, `"display_name":"mine"`}},
	} {
		a := args{"sandbox_id": "mine"}
		for k, v := range c.args {
			a[k] = v
		}
		if c.tool == "list_sandboxes" {
			a = nil
		}
		toolstest.WantText(t, call(t, list, c.tool, a), false, c.wantWords...)
	}
	toolstest.WantText(t, call(t, list, "delete_sandbox", args{"sandbox_id": "nobody"}), true, `there is no sandbox "nobody"`)
}

// TestForkOf checks that answers name the original of a fork, even after the original was deleted.
func TestForkOf(t *testing.T) {
	list := tools.New(newDouble(), tools.Config{})
	call(t, list, "create_sandbox", args{"display_name": "original"})
	of := `"fork_of":"` + letterID("sbx_", 0)
	toolstest.WantText(t, call(t, list, "create_sandbox", args{"display_name": "copy", "fork_of": "original"}), false, of)
	call(t, list, "delete_sandbox", args{"sandbox_id": "original"})
	toolstest.WantText(t, call(t, list, "get_sandbox", args{"sandbox_id": "copy"}), false, of)
	toolstest.WantText(t, call(t, list, "list_sandboxes", nil), false, of)
}
