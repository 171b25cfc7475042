package tools_test

import (
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools"
)

// A model that sees a sandbox asleep reads that nothing of it is lost.
func TestGetSuspendedSandbox(t *testing.T) {
	d := newDouble()
	list := tools.New(d, tools.Config{})
	call(t, list, "create_sandbox", args{"display_name": "mine"})
	d.sandboxes[0].State = sandbox.Suspended
	wantText(t, call(t, list, "get_sandbox", args{"sandbox_id": "mine"}), false, "is suspended on disk, with its variables; the next call")
	d.sandboxes[0].SuspendedTo, d.sandboxes[0].RewoundTo = "pause", time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	wantText(t, call(t, list, "get_sandbox", args{"sandbox_id": "mine"}), false, "paused, in memory", "went back to its state as of 2026-01-02 03:04:05 UTC")
}
