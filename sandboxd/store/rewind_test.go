package store_test

import (
	"strings"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// TestRewindUpdatesExecutions checks that Rewind updates the record of each execution, and that Rewound.Unreported is
// true until the sandbox is recorded as running.
func TestRewindUpdatesExecutions(t *testing.T) {
	path := newPath(t)
	s := openStore(t, path)
	ctx := t.Context()
	r := addRunning(t, s, newRecord(200_001))
	finish := func(at time.Time, epoch int) sandbox.ExecutionID {
		e := addExecution(t, s, r.ID, "").Execution
		e.State, e.StartTime, e.EndTime, e.KernelEpoch = sandbox.ExecSucceeded, at.Add(-time.Second), at, epoch
		s.FinishExecution(e)
		return e.ID
	}
	asOf := created.Add(time.Hour)
	before, after := finish(asOf.Add(-time.Minute), 1), finish(asOf.Add(time.Minute), 3)
	ran, notBegun := addExecution(t, s, r.ID, "").ID, addExecution(t, s, r.ID, "").ID
	rewinding := store.Rewinding{AsOf: asOf, Time: asOf.Add(2 * time.Hour), Keep: []sandbox.ExecutionID{notBegun}, Lost: "it is lost", Undone: "it is undone"}
	last := 4 + 2 // the highest possible epoch: two kernels before any execution, and one for each execution
	for range 2 { // the second Rewind changes only the epoch
		got, err := s.Rewind(r.ID, rewinding)
		if err != nil || !got.AsOf.Equal(asOf) || !got.Unreported || got.Epoch <= last {
			t.Errorf("Rewind() = %+v, %v, want Unreported set, AsOf %v and an epoch above %d", got, err, asOf, last)
		}
		last = got.Epoch + 1 + len(rewinding.Keep) // the highest epoch after this rewind: the next one, and one for each execution in Keep
		for id, want := range map[sandbox.ExecutionID]struct {
			state  sandbox.ExecutionState
			reason string
		}{
			before: {sandbox.ExecSucceeded, ""}, after: {sandbox.ExecSucceeded, "it is undone"},
			ran: {sandbox.ExecLost, "it is lost"}, notBegun: {sandbox.ExecQueued, ""},
		} {
			if e, err := s.Execution(ctx, id); err != nil || e.State != want.state || strings.TrimSuffix(e.Reason, "; it is undone") != want.reason {
				t.Errorf("Execution(%s) = state %s, reason %q, error %v; want %+v", id, e.State, e.Reason, err, want)
			}
		}
	}
	for _, state := range []sandbox.State{sandbox.Suspended, sandbox.Running} {
		if err := s.SetState(r.ID, state); err != nil {
			t.Fatal(err)
		}
		got, err := s.Sandbox(ctx, r.ID)
		if err != nil || !got.Rewound.AsOf.Equal(asOf) || got.Rewound.Unreported != (state == sandbox.Suspended) || got.State != state {
			t.Errorf("Sandbox() after SetState(%s) = %+v, %v, want that state, AsOf %v, and Unreported only while it is suspended", state, got, err, asOf)
		}
	}
	s.SetSaved(r.ID, asOf)
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Sandbox(ctx, r.ID); err != nil || !got.SavedTime.Equal(asOf) {
		t.Errorf("Sandbox() = %+v, %v, want SavedTime %v", got, err, asOf)
	}
}
