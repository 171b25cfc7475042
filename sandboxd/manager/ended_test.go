package manager_test

import (
	"context"
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestListNoticesDeath checks that List does not list a sandbox as running if its container has died, even if no
// other call has detected that yet. If the engine does not answer, List still returns its list.
func TestListNoticesDeath(t *testing.T) {
	d := newDaemon(t)
	ctx := t.Context()
	lives, dies := d.create(t, sandbox.CreateRequest{}).ID, d.create(t, sandbox.CreateRequest{}).ID
	d.eng.Die(dies, "exited with 137 (out of memory)")
	page, err := d.List(ctx, sandbox.ListRequest{})
	if err != nil || len(page.Sandboxes) != 1 || page.Sandboxes[0].ID != lives {
		t.Errorf("List() = %+v, %v, want %s alone", page.Sandboxes, err, lives)
	}
	page, err = d.List(ctx, sandbox.ListRequest{State: sandbox.Terminated})
	if err != nil || len(page.Sandboxes) != 1 || page.Sandboxes[0].ID != dies || !strings.Contains(page.Sandboxes[0].Reason, "out of memory") {
		t.Errorf("List(terminated) = %+v, %v, want %s, with out of memory as its reason", page.Sandboxes, err, dies)
	}
	eventually(t, "its container is removed", func() bool { return len(d.eng.IDs()) == 1 })
	d.eng.SetDown(true)
	if page, err = d.List(ctx, sandbox.ListRequest{}); err != nil || len(page.Sandboxes) != 1 {
		t.Errorf("List() = %+v, %v without an engine, want one sandbox", page.Sandboxes, err)
	}
}

// TestForkOfAnEndedSandbox checks that forking a terminated sandbox is an error. The error states when and why
// the sandbox was terminated, even if it was terminated during the fork.
func TestForkOfAnEndedSandbox(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(*testing.T, *daemon, sandbox.ID)
		late bool // the sandbox is terminated while it is being forked
		kind sandbox.Kind
		says []string
	}{
		"deleted":               {end: deleteNow, kind: sandbox.NotFound, says: []string{"was deleted at", "Create a new one"}},
		"died":                  {end: dieNow, kind: sandbox.Expired, says: []string{"out of memory", "Create a new one"}},
		"died while it is made": {end: dieNow, late: true, kind: sandbox.Expired, says: []string{"out of memory", "Create a new one"}},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDaemon(t)
			of := d.create(t, sandbox.CreateRequest{}).ID
			if tt.late {
				d.eng.Set(func() { d.eng.BeforeFork = func(context.Context) { tt.end(t, d, of) } })
			} else {
				tt.end(t, d, of)
			}
			_, err := d.Create(t.Context(), sandbox.CreateRequest{ForkOf: string(of)})
			wantError(t, "Create", err, tt.kind, append(tt.says, string(of))...)
			eventually(t, "nothing is left", func() bool { return len(d.eng.IDs()) == 0 })
		})
	}
}

func deleteNow(t *testing.T, d *daemon, id sandbox.ID) {
	if err := d.Delete(context.WithoutCancel(t.Context()), string(id)); err != nil {
		t.Errorf("Delete() = %v", err)
	}
}

func dieNow(_ *testing.T, d *daemon, id sandbox.ID) { d.eng.Die(id, "exited with 137 (out of memory)") }

// TestNotRecordedNamesTheCause checks that the error for a record that could not be written states the true
// cause.
func TestNotRecordedNamesTheCause(t *testing.T) {
	d := newDaemon(t)
	id := d.create(t, sandbox.CreateRequest{}).ID
	if err := d.store.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := d.Execute(t.Context(), string(id), sandbox.ExecuteRequest{Code: "print x"})
	wantError(t, "Execute without a store", err, sandbox.Unavailable, "stopping")
	if err != nil && strings.Contains(err.Error(), "disk") {
		t.Errorf("Execute() = %v, want an error that does not name the disk", err)
	}
}
