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

// TestExecuteReturnsAtEndOrAfterWaitSeconds checks that Execute returns when the code has ended or when
// WaitSeconds have passed, whichever is first.
func TestExecuteReturnsAtEndOrAfterWaitSeconds(t *testing.T) {
	d := newDaemon(t)
	ctx := t.Context()
	id := d.create(t, sandbox.CreateRequest{}).ID
	e := d.execute(t, id, "sleep 100ms", 0.01)
	if e.State != sandbox.ExecRunning {
		t.Errorf("state = %s, want running", e.State)
	}
	got, err := d.GetExecution(ctx, string(e.ID), 10, sandbox.Window{})
	if err != nil || got.State != sandbox.ExecSucceeded || output(got) != "slept" {
		t.Errorf("GetExecution() = %+v, %v, want the output slept", got, err)
	}
	waitUntil(t, "the end of the execution is on record", func() bool {
		rec, err := d.store.Execution(ctx, e.ID)
		return err == nil && rec.State == sandbox.ExecSucceeded && rec.SandboxID == id
	})
}

// TestRefusedExecutionLeavesNoRecord checks that a request that the guest refuses fails and leaves no execution.
func TestRefusedExecutionLeavesNoRecord(t *testing.T) {
	d := newDaemon(t)
	id := string(d.create(t, sandbox.CreateRequest{}).ID)
	_, err := d.Execute(t.Context(), id, sandbox.ExecuteRequest{Code: "refuse", RequestID: "r"})
	wantError(t, "Execute of code that the guest refuses", err, sandbox.Busy)
	if e := d.execute(t, sandbox.ID(id), "print fine", 5); output(e) != "fine" {
		t.Errorf("the output of the next call is %q, want fine", output(e))
	}
	_, err = d.FindExecution(t.Context(), "r")
	wantError(t, "FindExecution of the refused execution", err, sandbox.NotFound)
}

// TestExecuteRetryRunsCodeOnce checks that code with a request id runs once, no matter how often the request is
// sent. Using the request id for other code or for another sandbox is an error.
func TestExecuteRetryRunsCodeOnce(t *testing.T) {
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
				t.Errorf("Execute() = %+v, %v, want it succeeded with ten lines", e, err)
			}
			mu.Lock()
			defer mu.Unlock()
			ids[e.ID] = true
		})
	}
	wg.Wait()
	if g := d.eng.Guest(a.ID); len(ids) != 1 || g.Executions() != 1 {
		t.Errorf("eight requests returned the executions %v, and the guest has %d; want one", ids, g.Executions())
	}
	found, err := d.FindExecution(ctx, "r")
	if err != nil || !ids[found.ID] || found.State != sandbox.ExecSucceeded || found.NextOffset != 0 {
		t.Errorf("FindExecution() = %+v, %v, want the first execution, succeeded, without output", found, err)
	}
	other := req
	other.Code = "print other"
	_, err = d.Execute(ctx, "a", other)
	wantError(t, "Execute of other code", err, sandbox.Invalid, "request_id", string(found.ID))
	for _, name := range []string{"b", string(b.ID)} {
		_, err = d.Execute(ctx, name, req)
		wantError(t, "Execute in another sandbox", err, sandbox.Invalid, string(a.ID))
	}
	if err := d.Delete(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	e, err := d.Execute(ctx, string(a.ID), req)
	if err != nil || !ids[e.ID] || e.State != sandbox.ExecSucceeded || !e.OutputGone {
		t.Errorf("a retry after the deletion = %+v, %v, want the first execution without output", e, err)
	}
}

// TestExecutionOutlivesCaller checks that code continues to run when the context of the caller ends.
func TestExecutionOutlivesCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon(t)
		id := d.create(t, sandbox.CreateRequest{}).ID
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			d.eng.Guest(id).AwaitExecutions(t.Context(), 1)
			cancel()
		}()
		_, err := d.Execute(ctx, string(id), sandbox.ExecuteRequest{Code: "count 20 5ms", RequestID: "r", WaitSeconds: 60})
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("Execute() = %v, want context.Canceled", err)
		}
		found, err := d.FindExecution(t.Context(), "r")
		if err != nil {
			t.Fatal(err)
		}
		if e, err := d.GetExecution(t.Context(), string(found.ID), 10, sandbox.Window{}); err != nil || e.State != sandbox.ExecSucceeded || e.OutputBytes == 0 {
			t.Errorf("GetExecution() = %+v, %v, want it succeeded with output", e, err)
		}
	})
}

func TestInterruptStopsExecution(t *testing.T) {
	d := newDaemon(t)
	id := d.create(t, sandbox.CreateRequest{}).ID
	e := d.execute(t, id, "sleep 1h", 0)
	for range 2 {
		got, err := d.Interrupt(t.Context(), string(e.ID))
		if err != nil || got.State != sandbox.ExecInterrupted || got.SandboxID != id {
			t.Errorf("Interrupt() = %+v, %v, want interrupted", got, err)
		}
	}
}

// TestFollowReturnsEachEventOnce checks that FollowExecution passes on each event once and in order, even if
// connections break.
func TestFollowReturnsEachEventOnce(t *testing.T) {
	d := newDaemon(t)
	id := d.create(t, sandbox.CreateRequest{}).ID
	e := d.execute(t, id, "count 60 5ms", 0)
	var got []int64
	var last sandbox.Event
	err := d.FollowExecution(t.Context(), string(e.ID), 1, func(ev sandbox.Event) error {
		if len(got) == 10 || len(got) == 30 {
			d.eng.Guest(id).BreakConnections()
		}
		got, last = append(got, ev.Seq), ev
		return nil
	})
	if err != nil || len(got) != 61 || last.State != sandbox.ExecSucceeded {
		t.Errorf("FollowExecution() = %v with %d events, the last one %+v; want 61 events, the last one succeeded", err, len(got), last)
	}
	for i, seq := range got {
		if seq != int64(i+1) {
			t.Errorf("event %d has the sequence number %d, want %d", i+1, seq, i+1)
		}
	}
	enough := errors.New("enough")
	if err := d.FollowExecution(t.Context(), string(e.ID), 3, func(ev sandbox.Event) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("FollowExecution() = %v, want the error of the callback", err)
	}
}

// TestDeleteEndsWaitingCalls checks that deleting a sandbox ends all calls that wait for its executions, and that each
// call gets an answer.
func TestDeleteEndsWaitingCalls(t *testing.T) {
	d := newDaemon(t)
	ctx := t.Context()
	id := d.create(t, sandbox.CreateRequest{}).ID
	e := d.execute(t, id, "sleep 1h", 0)
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
			t.Errorf("FollowExecution() = %v with the last event %+v, want lost", err, last)
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
	d.execute(b, id, "print x", 5)
	g := d.eng.Guest(id)
	b.Run("manager", func(b *testing.B) {
		for b.Loop() {
			d.execute(b, id, "print x", 5)
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

// TestRetryNeverRunsTwice checks that the record of an execution is kept if the engine fails while a retry delivers
// it again, because the guest already has the execution. The next retry then returns that execution.
func TestRetryNeverRunsTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon(t)
		id := d.create(t, sandbox.CreateRequest{}).ID
		req := sandbox.ExecuteRequest{Code: "sleep 1h", RequestID: "r", WaitSeconds: 1}
		first, err := d.Execute(t.Context(), string(id), req)
		if err != nil {
			t.Fatal(err)
		}
		d.eng.SetDown(true)
		time.Sleep(time.Minute) // the daemon detects that its connection to the guest is closed
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
