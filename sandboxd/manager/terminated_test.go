package manager_test

import (
	"context"
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestListDetectsDeadContainer checks that List does not return a dead sandbox as running, even if no other call
// has detected that its container died. If the engine does not answer, List still returns its list.
func TestListDetectsDeadContainer(t *testing.T) {
	d := newDaemon(t)
	ctx := t.Context()
	healthy, dead := d.create(t, sandbox.CreateRequest{}).ID, d.create(t, sandbox.CreateRequest{}).ID
	d.eng.KillContainer(dead, "exited with 137 (out of memory)")
	page, err := d.List(ctx, sandbox.ListRequest{})
	if err != nil || len(page.Sandboxes) != 1 || page.Sandboxes[0].ID != healthy {
		t.Errorf("List() = %+v, %v, want only %s", page.Sandboxes, err, healthy)
	}
	page, err = d.List(ctx, sandbox.ListRequest{State: sandbox.Terminated})
	if err != nil || len(page.Sandboxes) != 1 || page.Sandboxes[0].ID != dead || !strings.Contains(page.Sandboxes[0].Reason, "out of memory") {
		t.Errorf("List(terminated) = %+v, %v, want only %s, with the reason out of memory", page.Sandboxes, err, dead)
	}
	waitUntil(t, "the dead container is removed", func() bool { return len(d.eng.IDs()) == 1 })
	d.eng.SetDown(true)
	if page, err = d.List(ctx, sandbox.ListRequest{}); err != nil || len(page.Sandboxes) != 1 {
		t.Errorf("List() without an engine = %+v, %v, want one sandbox", page.Sandboxes, err)
	}
}

// TestForkOfTerminatedSandboxFails checks that forking a terminated sandbox is an error. The error states when and why
// the sandbox was terminated, even if it was terminated during the fork.
func TestForkOfTerminatedSandboxFails(t *testing.T) {
	for name, tt := range map[string]struct {
		terminate func(*testing.T, *daemon, sandbox.ID)
		during    bool // the sandbox is terminated during the fork
		kind      sandbox.Kind
		parts     []string
	}{
		"deleted":              {terminate: deleteSandbox, kind: sandbox.NotFound, parts: []string{"was deleted at", "Create a new one"}},
		"dead container":       {terminate: killContainer, kind: sandbox.Expired, parts: []string{"out of memory", "Create a new one"}},
		"died during the fork": {terminate: killContainer, during: true, kind: sandbox.Expired, parts: []string{"out of memory", "Create a new one"}},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDaemon(t)
			original := d.create(t, sandbox.CreateRequest{}).ID
			if tt.during {
				d.eng.Set(func() { d.eng.BeforeFork = func(context.Context) { tt.terminate(t, d, original) } })
			} else {
				tt.terminate(t, d, original)
			}
			_, err := d.Create(t.Context(), sandbox.CreateRequest{ForkOf: string(original)})
			wantError(t, "Create", err, tt.kind, append(tt.parts, string(original))...)
			waitUntil(t, "no container is left", func() bool { return len(d.eng.IDs()) == 0 })
		})
	}
}

func deleteSandbox(t *testing.T, d *daemon, id sandbox.ID) {
	if err := d.Delete(context.WithoutCancel(t.Context()), string(id)); err != nil {
		t.Errorf("Delete() = %v", err)
	}
}

func killContainer(_ *testing.T, d *daemon, id sandbox.ID) {
	d.eng.KillContainer(id, "exited with 137 (out of memory)")
}
