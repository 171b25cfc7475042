package manager_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/fake"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

func guestClient(g *fake.Guest) *guest.Client { return guest.NewClient(g.Dial) }

// TestCallAfterConnectionLossSucceeds checks that after a connection breaks, the next call opens a new one and
// succeeds.
func TestCallAfterConnectionLossSucceeds(t *testing.T) {
	d := newDaemon(t)
	id := d.create(t, sandbox.CreateRequest{}).ID
	for range 20 {
		d.eng.Guest(id).BreakConnections()
		if e := d.execute(t, id, "print x", 5); output(e) != "x" {
			t.Errorf("output = %q, want x", output(e))
		}
	}
	if n := d.eng.Guest(id).Executions(); n != 20 {
		t.Errorf("the guest received %d executions, want 20", n)
	}
}

// TestCallReportsDeadContainer checks that the next call after the end of a container reports that end, and that
// running executions are lost.
func TestCallReportsDeadContainer(t *testing.T) {
	d := newDaemon(t)
	ctx := t.Context()
	id := d.create(t, sandbox.CreateRequest{}).ID
	e := d.execute(t, id, "sleep 1h", 0)
	d.eng.KillContainer(id, "exited with 137 (out of memory)")
	_, err := d.Execute(ctx, string(id), sandbox.ExecuteRequest{Code: "print x"})
	wantError(t, "Execute", err, sandbox.Expired, "out of memory", "variables and files are lost")
	got, err := d.GetExecution(ctx, string(e.ID), 5, sandbox.Window{})
	if err != nil || got.State != sandbox.ExecLost || !strings.Contains(got.Reason, "out of memory") {
		t.Errorf("GetExecution() = %+v, %v, want it lost", got, err)
	}
	waitUntil(t, "the dead container is removed", func() bool { return len(d.eng.IDs()) == 0 })
}

// TestUnreachableEngineTerminatesNothing checks that all calls report that the engine does not answer, and that no
// sandbox is terminated because of that.
func TestUnreachableEngineTerminatesNothing(t *testing.T) {
	d := newDaemon(t)
	ctx := t.Context()
	id := d.create(t, sandbox.CreateRequest{}).ID
	running := d.execute(t, id, "count 30 5ms", 0)
	fresh := d.create(t, sandbox.CreateRequest{}).ID
	d.eng.SetDown(true)
	_, err := d.Execute(ctx, string(fresh), sandbox.ExecuteRequest{Code: "print x", RequestID: "fresh"})
	wantError(t, "Execute", err, sandbox.Unavailable, "does not answer")
	_, err = d.FindExecution(ctx, "fresh")
	wantError(t, "FindExecution of an execution that could not be sent", err, sandbox.NotFound)
	_, err = d.Execute(ctx, string(id), sandbox.ExecuteRequest{Code: "print x", RequestID: "r"})
	wantError(t, "Execute", err, sandbox.Unavailable, "does not answer")
	_, err = d.GetExecution(ctx, string(running.ID), 0, sandbox.Window{})
	wantError(t, "GetExecution", err, sandbox.Unavailable, "may still exist")
	_, err = d.Create(ctx, sandbox.CreateRequest{})
	wantError(t, "Create", err, sandbox.Unavailable)
	wantError(t, "Ready", d.Ready(ctx), sandbox.Unavailable)
	if got, err := d.Get(ctx, string(id)); err != nil || got.State != sandbox.Running || got.Usage != nil {
		t.Errorf("Get() = %+v, %v, want it running, without usage", got, err)
	}
	d.eng.SetDown(false)
	if err := d.Ready(ctx); err != nil {
		t.Errorf("Ready() = %v, want no error", err)
	}
	got, err := d.GetExecution(ctx, string(running.ID), 10, sandbox.Window{})
	if err != nil || got.State != sandbox.ExecSucceeded {
		t.Errorf("GetExecution() = %+v, %v, want it succeeded", got, err)
	}
	// A retry runs the code that could not be delivered before, and runs it once.
	e, err := d.Execute(ctx, string(id), sandbox.ExecuteRequest{Code: "print x", RequestID: "r", WaitSeconds: 10})
	if err != nil || output(e) != "x" {
		t.Errorf("the repeated Execute = %+v, %v, want x", e, err)
	}
	if n := d.eng.Guest(id).Executions(); n != 2 {
		t.Errorf("the guest received %d executions, want 2", n)
	}
}

// TestDeleteSucceedsWithoutEngine checks that a deletion succeeds while the engine does not answer, and that the
// container is removed when the engine answers again.
func TestDeleteSucceedsWithoutEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon(t)
		id := d.create(t, sandbox.CreateRequest{}).ID
		d.eng.SetDown(true)
		if err := d.Delete(t.Context(), string(id)); err != nil {
			t.Errorf("Delete() = %v", err)
		}
		_, err := d.Get(t.Context(), string(id))
		wantError(t, "Get", err, sandbox.NotFound, "deleted")
		d.eng.SetDown(false)
		time.Sleep(time.Minute)
		if ids := d.eng.IDs(); len(ids) != 0 {
			t.Errorf("containers = %v, want none", ids)
		}
	})
}

// TestSweepDetectsDeadContainer checks that the sweep loop detects a container that has died, even if no client
// calls its sandbox.
func TestSweepDetectsDeadContainer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon(t)
		id := d.create(t, sandbox.CreateRequest{}).ID
		d.eng.KillContainer(id, "exited with 0")
		time.Sleep(31 * time.Second)
		synctest.Wait()
		rec, err := d.store.Sandbox(t.Context(), id)
		if err != nil || rec.State != sandbox.Terminated || rec.Cause != store.CauseLost || !strings.Contains(rec.Reason, "exited with 0") {
			t.Errorf("the record is %+v, %v, want it terminated with the cause lost", rec, err)
		}
	})
}

// TestStartRetriesUntilEngineAnswers checks that a manager whose engine does not answer at start retries until the
// engine answers.
func TestStartRetriesUntilEngineAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eng, path := fake.NewEngine(), filepath.Join(t.TempDir(), "a.db")
		defer eng.Close()
		d := startDaemon(t, path, eng)
		running, dead := d.create(t, sandbox.CreateRequest{}), d.create(t, sandbox.CreateRequest{})
		d.stop(t)
		eng.KillContainer(dead.ID, "exited with 255")
		eng.SetDown(true)
		next := startDaemon(t, path, eng)
		defer next.stop(t)
		for _, id := range []sandbox.ID{running.ID, dead.ID} {
			if got, err := next.Get(t.Context(), string(id)); err != nil || got.State != sandbox.Running {
				t.Errorf("Get() = %+v, %v, want it running, because the engine has not answered yet", got, err)
			}
			_, err := next.Execute(t.Context(), string(id), sandbox.ExecuteRequest{Code: "print x"})
			wantError(t, "Execute", err, sandbox.Unavailable, "does not answer")
		}
		time.Sleep(5 * time.Minute)
		eng.SetDown(false)
		time.Sleep(31 * time.Second)
		synctest.Wait()
		rec, err := next.store.Sandbox(t.Context(), dead.ID)
		if err != nil || rec.State != sandbox.Terminated {
			t.Errorf("the record is %+v, %v, want it terminated", rec, err)
		}
		if e := next.execute(t, running.ID, "print x", 5); output(e) != "x" {
			t.Errorf("output = %q, want x", output(e))
		}
	})
}

// TestClosedManagerRefusesCalls checks that Close can be called twice and while code runs, and that all later
// calls are refused.
func TestClosedManagerRefusesCalls(t *testing.T) {
	d := newDaemon(t)
	id := d.create(t, sandbox.CreateRequest{}).ID
	waiting := make(chan error, 1)
	go func() {
		_, err := d.Execute(context.Background(), string(id), sandbox.ExecuteRequest{Code: "sleep 1h", WaitSeconds: 60})
		waiting <- err
	}()
	g := d.eng.Guest(id)
	g.AwaitExecutions(t.Context(), 1)
	d.Close()
	wantError(t, "the waiting Execute", <-waiting, sandbox.Unavailable, "stopping", "exec_")
	d.Close()
	_, err := d.Create(t.Context(), sandbox.CreateRequest{})
	wantError(t, "Create", err, sandbox.Unavailable, "stopping")
	wantError(t, "Delete", d.Delete(t.Context(), string(id)), sandbox.Unavailable, "stopping")
	if _, err := manager.New(manager.Config{Logger: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("New() without a store and an engine = nil, want an error")
	}
}

// TestUnrecordedChangeErrorNamesCause checks that the error for a record that could not be written names the real
// cause.
func TestUnrecordedChangeErrorNamesCause(t *testing.T) {
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
