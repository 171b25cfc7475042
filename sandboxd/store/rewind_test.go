package store_test

import (
	"strings"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// TestRewind checks that Rewind updates the record of each execution, and that Rewound.Owed is true until the
// sandbox is recorded as running.
func TestRewind(t *testing.T) {
	path := file(t)
	s := open(t, path)
	ctx := t.Context()
	r := add(t, s, record(200_001))
	ended := func(at time.Time, epoch int) sandbox.ExecutionID {
		e := accept(t, s, r.ID, "").Execution
		e.State, e.StartTime, e.EndTime, e.KernelEpoch = sandbox.ExecSucceeded, at.Add(-time.Second), at, epoch
		s.FinishExecution(e)
		return e.ID
	}
	asOf := created.Add(time.Hour)
	before, after := ended(asOf.Add(-time.Minute), 1), ended(asOf.Add(time.Minute), 3)
	ran, onItsWay := accept(t, s, r.ID, "").ID, accept(t, s, r.ID, "").ID
	back := store.Rewinding{AsOf: asOf, Time: asOf.Add(2 * time.Hour), Keep: []sandbox.ExecutionID{onItsWay}, Lost: "it is lost", Undone: "it is undone"}
	last := 4 + 2 // the highest possible epoch: two kernels before any execution, and one for each execution
	for range 2 { // the second Rewind changes only the epoch
		got, err := s.Rewind(r.ID, back)
		if err != nil || !got.AsOf.Equal(asOf) || !got.Owed || got.Epoch <= last {
			t.Errorf("Rewind() = %+v, %v, want it owed, as of %v, and its epoch above %d", got, err, asOf, last)
		}
		last = got.Epoch + 1 + len(back.Keep) // the highest epoch after this rewind: the next one, and one for each execution in Keep
		for id, want := range map[sandbox.ExecutionID]struct {
			state  sandbox.ExecutionState
			reason string
		}{
			before: {sandbox.ExecSucceeded, ""}, after: {sandbox.ExecSucceeded, "it is undone"},
			ran: {sandbox.ExecLost, "it is lost"}, onItsWay: {sandbox.ExecQueued, ""},
		} {
			if e, err := s.Execution(ctx, id); err != nil || e.State != want.state || strings.TrimSuffix(e.Reason, "; it is undone") != want.reason {
				t.Errorf("Execution() = %s %q, %v, want %+v", e.State, e.Reason, err, want)
			}
		}
	}
	for _, state := range []sandbox.State{sandbox.Suspended, sandbox.Running} {
		if err := s.SetState(r.ID, state); err != nil {
			t.Fatal(err)
		}
		got, err := s.Sandbox(ctx, r.ID)
		if err != nil || !got.Rewound.AsOf.Equal(asOf) || got.Rewound.Owed != (state == sandbox.Suspended) || got.State != state {
			t.Errorf("Sandbox() %s = %+v, %v", state, got, err)
		}
	}
	s.SetSaved(r.ID, asOf)
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Sandbox(ctx, r.ID); err != nil || !got.SavedTime.Equal(asOf) {
		t.Errorf("Sandbox() = %+v, %v, want it saved at %v", got, err, asOf)
	}
}
