package tools_test

import (
	"testing"

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
}
