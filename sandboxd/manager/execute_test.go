package manager_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestExecuteWaits checks that Execute returns when the code has ended or when WaitSeconds have passed,
// whichever is first.
func TestExecuteWaits(t *testing.T) {
	d := newDaemon(t)
	ctx := t.Context()
	id := d.create(t, sandbox.CreateRequest{}).ID
	e := d.run(t, id, "sleep 100ms", 0.01)
	if e.State != sandbox.ExecRunning {
		t.Errorf("state = %s, want running", e.State)
	}
	got, err := d.GetExecution(ctx, string(e.ID), 10, sandbox.Window{})
	if err != nil || got.State != sandbox.ExecSucceeded || output(got) != "slept" {
		t.Errorf("GetExecution() = %+v, %v, want it slept", got, err)
	}
	eventually(t, "its end is on record", func() bool {
		rec, err := d.store.Execution(ctx, e.ID)
		return err == nil && rec.State == sandbox.ExecSucceeded && rec.SandboxID == id
	})
	_, err = d.GetExecution(ctx, string(e.ID), 301, sandbox.Window{})
	wantError(t, "GetExecution(wait 301)", err, sandbox.Invalid)
}

func TestExecuteInvalid(t *testing.T) {
	d := newDaemon(t)
	id := string(d.create(t, sandbox.CreateRequest{}).ID)
	for _, req := range []sandbox.ExecuteRequest{
		{}, {Code: "a\x00b"}, {Code: "\xff"}, {Code: "x", Language: "cobol"}, {Code: "x", TimeoutSeconds: new(0)},
		{Code: "x", WaitSeconds: -1}, {Code: strings.Repeat("x", 10<<20)}, {Code: "x", RequestID: "é"},
	} {
		_, err := d.Execute(t.Context(), id, req)
		wantError(t, "Execute", err, sandbox.Invalid)
	}
	_, err := d.Execute(t.Context(), id, sandbox.ExecuteRequest{Code: "refuse", RequestID: "r"})
	wantError(t, "what the guest refuses", err, sandbox.Busy)
	if e := d.run(t, sandbox.ID(id), "print fine", 5); output(e) != "fine" {
		t.Errorf("the next call printed %q, want fine", output(e))
	}
	_, err = d.FindExecution(t.Context(), "r")
	wantError(t, "FindExecution of what was refused", err, sandbox.NotFound)
}

// TestExecuteAgain checks that code with a request id runs once, no matter how often the request is sent. Using
// the request id for other code or for another sandbox is an error.
func TestExecuteAgain(t *testing.T) {
	d := newDaemon(t)
	ctx := t.Context()
	a, b := d.create(t, sandbox.CreateRequest{DisplayName: "a"}), d.create(t, sandbox.CreateRequest{DisplayName: "b"})
	req := sandbox.ExecuteRequest{Code: "count 10 5ms", RequestID: "r", WaitSeconds: 10}
	ids := map[sandbox.ExecutionID]bool{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			e, err := d.Execute(ctx, "a", req)
			if err != nil || e.State != sandbox.ExecSucceeded || e.OutputBytes != 20 {
				t.Errorf("Execute() = %+v, %v, want ten lines", e, err)
			}
			mu.Lock()
			defer mu.Unlock()
			ids[e.ID] = true
		})
	}
	wg.Wait()
	if g := d.eng.Guest(a.ID); len(ids) != 1 || g.Executions() != 1 {
		t.Errorf("eight requests made executions %v and %d runs, want one", ids, g.Executions())
	}
	found, err := d.FindExecution(ctx, "r")
	if err != nil || !ids[found.ID] || found.State != sandbox.ExecSucceeded || found.NextOffset != 0 {
		t.Errorf("FindExecution() = %+v, %v, want the one", found, err)
	}
	other := req
	other.Code = "print other"
	_, err = d.Execute(ctx, "a", other)
	wantError(t, "other code", err, sandbox.Invalid, "request_id", string(found.ID))
	for _, name := range []string{"b", string(b.ID)} {
		_, err = d.Execute(ctx, name, req)
		wantError(t, "another sandbox", err, sandbox.Invalid, string(a.ID))
	}
	if err := d.Delete(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	e, err := d.Execute(ctx, string(a.ID), req)
	if err != nil || !ids[e.ID] || e.State != sandbox.ExecSucceeded || !e.OutputGone {
		t.Errorf("a retry after the deletion = %+v, %v, want the first one without output", e, err)
	}
}

// TestExecuteCallerGoes checks that code continues to run when its caller gives up.
func TestExecuteCallerGoes(t *testing.T) {
	d := newDaemon(t)
	id := d.create(t, sandbox.CreateRequest{}).ID
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := d.Execute(ctx, string(id), sandbox.ExecuteRequest{Code: "count 20 5ms", RequestID: "r", WaitSeconds: 60})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Execute() = %v, want the caller's deadline", err)
	}
	found, err := d.FindExecution(t.Context(), "r")
	if err != nil {
		t.Fatal(err)
	}
	if e, err := d.GetExecution(t.Context(), string(found.ID), 10, sandbox.Window{}); err != nil || e.State != sandbox.ExecSucceeded || e.OutputBytes == 0 {
		t.Errorf("GetExecution() = %+v, %v, want it finished", e, err)
	}
}

func TestInterrupt(t *testing.T) {
	d := newDaemon(t)
	id := d.create(t, sandbox.CreateRequest{}).ID
	e := d.run(t, id, "sleep 1h", 0)
	for range 2 {
		got, err := d.Interrupt(t.Context(), string(e.ID))
		if err != nil || got.State != sandbox.ExecInterrupted || got.SandboxID != id {
			t.Errorf("Interrupt() = %+v, %v, want interrupted", got, err)
		}
	}
}

// TestFollow checks that FollowExecution passes on each event once and in order, even if connections break.
func TestFollow(t *testing.T) {
	d := newDaemon(t)
	id := d.create(t, sandbox.CreateRequest{}).ID
	e := d.run(t, id, "count 60 5ms", 0)
	var got []int64
	var last sandbox.Event
	err := d.FollowExecution(t.Context(), string(e.ID), 1, func(ev sandbox.Event) error {
		if len(got) == 10 || len(got) == 30 {
			d.eng.Guest(id).Cut()
		}
		got, last = append(got, ev.Seq), ev
		return nil
	})
	if err != nil || len(got) != 61 || last.State != sandbox.ExecSucceeded {
		t.Errorf("FollowExecution() = %v with %d events and %+v at last, want 61 events", err, len(got), last)
	}
	for i, seq := range got {
		if seq != int64(i+1) {
			t.Errorf("event %d has number %d", i+1, seq)
		}
	}
	enough := errors.New("enough")
	if err := d.FollowExecution(t.Context(), string(e.ID), 3, func(ev sandbox.Event) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("FollowExecution() = %v, want fn's error", err)
	}
}

// TestDeleteEndsWaits checks that deleting a sandbox ends all calls that wait for its executions, and that each
// call gets an answer.
func TestDeleteEndsWaits(t *testing.T) {
	d := newDaemon(t)
	ctx := t.Context()
	id := d.create(t, sandbox.CreateRequest{}).ID
	e := d.run(t, id, "sleep 1h", 0)
	var wg sync.WaitGroup
	wg.Go(func() {
		got, err := d.GetExecution(ctx, string(e.ID), 60, sandbox.Window{})
		if err != nil || got.State != sandbox.ExecLost || !strings.Contains(got.Reason, "deleted") {
			t.Errorf("GetExecution() = %+v, %v, want it lost", got, err)
		}
	})
	wg.Go(func() {
		got, err := d.Execute(ctx, string(id), sandbox.ExecuteRequest{Code: "sleep 1h", WaitSeconds: 60})
		if err != nil || got.State != sandbox.ExecLost {
			t.Errorf("Execute() = %+v, %v, want it lost", got, err)
		}
	})
	wg.Go(func() {
		var last sandbox.Event
		err := d.FollowExecution(ctx, string(e.ID), 1, func(ev sandbox.Event) error { last = ev; return nil })
		if err != nil || last.State != sandbox.ExecLost {
			t.Errorf("FollowExecution() = %v, %+v at last, want it lost", err, last)
		}
	})
	g := d.eng.Guest(id)
	g.AwaitExecutions(ctx, 2)
	if err := d.Delete(ctx, string(id)); err != nil {
		t.Errorf("Delete() = %v", err)
	}
	wg.Wait()
}

// BenchmarkExecute measures the time that the manager and the store add to a call, with a guest in the same
// process.
func BenchmarkExecute(b *testing.B) {
	d := newDaemon(b)
	id := d.create(b, sandbox.CreateRequest{}).ID
	d.run(b, id, "print x", 5)
	g := d.eng.Guest(id)
	b.Run("manager", func(b *testing.B) {
		for b.Loop() {
			d.run(b, id, "print x", 5)
		}
	})
	b.Run("guest alone", func(b *testing.B) {
		c := guestClient(g)
		defer c.Close()
		for b.Loop() {
			if _, err := c.Execute(b.Context(), sandbox.NewExecutionID(), sandbox.ExecuteRequest{Code: "print x", Language: sandbox.Python, TimeoutSeconds: new(1), WaitSeconds: 5}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestRetryNeverRunsTwice checks that an execution that its guest has stays on record if the engine fails during
// another delivery of it. A retry with the same request id then returns the first execution.
func TestRetryNeverRunsTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := bubble(t)
		id := d.create(t, sandbox.CreateRequest{}).ID
		req := sandbox.ExecuteRequest{Code: "sleep 1h", RequestID: "r", WaitSeconds: 1}
		first, err := d.Execute(t.Context(), string(id), req)
		if err != nil {
			t.Fatal(err)
		}
		d.eng.SetDown(true)
		time.Sleep(time.Minute) // the daemon notices that its connection to the guest is closed
		_, err = d.Execute(t.Context(), string(id), req)
		wantError(t, "Execute while the engine does not answer", err, sandbox.Unavailable)
		d.eng.SetDown(false)
		again, err := d.Execute(t.Context(), string(id), req)
		if err != nil || again.ID != first.ID {
			t.Errorf("Execute() = %s, %v, want the first execution, %s", again.ID, err, first.ID)
		}
		if n := d.eng.Guest(id).Executions(); n != 1 {
			t.Errorf("the guest has %d executions, want 1", n)
		}
	})
}
