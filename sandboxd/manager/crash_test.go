package manager_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/fake"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// crash stops a daemon abruptly, like kill -9. First it copies the database, and it returns the path of the copy, for
// the next daemon. The copy does not contain changes that the old daemon makes while it stops. Connections to guests
// break.
func crash(t testing.TB, d *daemon) string {
	t.Helper()
	dir := t.TempDir()
	// Copy the write-ahead log first, because SQLite may move its pages to the main file between the two copies.
	for _, suffix := range []string{"-wal", ""} {
		data, err := os.ReadFile(d.path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "copy.db"+suffix), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d.Close() // end the daemon's goroutines; their writes do not reach the copy
	_ = d.store.Close()
	return filepath.Join(dir, "copy.db")
}

// TestKilledDaemonLosesNothing kills the daemon while code runs, and checks that nothing that was acknowledged to
// clients is lost.
func TestKilledDaemonLosesNothing(t *testing.T) {
	eng := fake.NewEngine()
	defer eng.Close()
	ctx := t.Context()
	d := startDaemon(t, filepath.Join(t.TempDir(), "a.db"), eng)
	sb := d.create(t, sandbox.CreateRequest{DisplayName: "x", RequestID: "create"})
	done := d.execute(t, sb.ID, "print before", 5)
	running, err := d.Execute(ctx, "x", sandbox.ExecuteRequest{Code: "count 100 5ms", RequestID: "run"})
	if err != nil || running.State != sandbox.ExecRunning {
		t.Fatalf("Execute() = %+v, %v, want it running", running, err)
	}
	// undelivered is an execution that was accepted but not delivered to the guest.
	undelivered := sandbox.Execution{ID: sandbox.NewExecutionID(), SandboxID: sb.ID, Language: sandbox.Python, State: sandbox.ExecQueued, TimeoutSeconds: 600, CreateTime: time.Now()}
	if err := d.store.AddExecution(store.Execution{Execution: undelivered, RequestID: "undelivered"}); err != nil {
		t.Fatal(err)
	}
	next := startDaemon(t, crash(t, d), eng)
	defer next.stop(t)

	if got, err := next.Get(ctx, "x"); err != nil || got.ID != sb.ID || got.State != sandbox.Running {
		t.Errorf("Get() = %+v, %v, want it running", got, err)
	}
	if again := next.create(t, sandbox.CreateRequest{DisplayName: "x", RequestID: "create"}); again.ID != sb.ID {
		t.Errorf("the repeated Create returned %s, want %s", again.ID, sb.ID)
	}
	again, err := next.Execute(ctx, "x", sandbox.ExecuteRequest{Code: "count 100 5ms", RequestID: "run", WaitSeconds: 10})
	if err != nil || again.ID != running.ID || again.State != sandbox.ExecSucceeded {
		t.Fatalf("the repeated Execute = %+v, %v, want %s succeeded", again, err, running.ID)
	}
	var want strings.Builder
	for i := range 100 {
		want.WriteString(strconv.Itoa(i) + "\n")
	}
	if output(again) != want.String() {
		t.Errorf("output = %q, want all 100 lines", output(again))
	}
	if n := eng.Guest(sb.ID).OutputBytes(running.ID); n != int64(want.Len()) {
		t.Errorf("the guest has %d bytes of output, want %d from one run", n, want.Len())
	}
	if got, err := next.GetExecution(ctx, string(done.ID), 0, sandbox.Window{}); err != nil || output(got) != "before" {
		t.Errorf("the earlier execution = %+v, %v, want its output", got, err)
	}
	waitUntil(t, "the execution that never started is lost", func() bool {
		got, err := next.GetExecution(ctx, string(undelivered.ID), 0, sandbox.Window{})
		return err == nil && got.State == sandbox.ExecLost && strings.Contains(got.Reason, "never started")
	})
	_, err = next.FindExecution(ctx, "undelivered")
	wantError(t, "FindExecution of the execution that never started", err, sandbox.NotFound)
}

// TestExecutionThatEndsWithoutDaemonIsRecorded checks that an execution that ends while no daemon is running is
// recorded by the next daemon.
func TestExecutionThatEndsWithoutDaemonIsRecorded(t *testing.T) {
	eng := fake.NewEngine()
	defer eng.Close()
	ctx := t.Context()
	d := startDaemon(t, filepath.Join(t.TempDir(), "a.db"), eng)
	sb := d.create(t, sandbox.CreateRequest{})
	e := d.execute(t, sb.ID, "sleep 50ms", 0)
	path := crash(t, d)
	g := eng.Guest(sb.ID)
	g.AwaitEnd(ctx, e.ID)
	next := startDaemon(t, path, eng)
	defer next.stop(t)
	waitUntil(t, "the end of the execution is on record", func() bool {
		rec, err := next.store.Execution(ctx, e.ID)
		return err == nil && rec.State == sandbox.ExecSucceeded
	})
}

// TestStartReconcilesContainers checks that a daemon at its start removes containers without a record. It terminates
// sandboxes without a container, with a reason, and marks their executions as lost.
func TestStartReconcilesContainers(t *testing.T) {
	eng := fake.NewEngine()
	defer eng.Close()
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "a.db")
	d := startDaemon(t, path, eng)
	present := d.create(t, sandbox.CreateRequest{})
	removed := d.create(t, sandbox.CreateRequest{})
	died := d.create(t, sandbox.CreateRequest{})
	e := d.execute(t, died.ID, "sleep 1h", 0)
	other := newDaemon(t)
	foreign := other.create(t, sandbox.CreateRequest{})
	d.stop(t)
	eng.Adopt(other.eng, foreign.ID)
	_ = eng.Remove(ctx, removed.ID)
	eng.KillContainer(died.ID, "exited with 137 (out of memory)")

	next := startDaemon(t, path, eng)
	defer next.stop(t)
	if ids := eng.IDs(); len(ids) != 1 || ids[0] != present.ID {
		t.Errorf("containers = %v, want only %s", ids, present.ID)
	}
	for id, reason := range map[sandbox.ID]string{removed.ID: "no longer exists", died.ID: "exited with 137 (out of memory)"} {
		got, err := next.Get(ctx, string(id))
		if err != nil || got.State != sandbox.Terminated || !strings.Contains(got.Reason, reason) || !strings.Contains(got.Reason, "variables and files are lost") {
			t.Errorf("Get() = %+v, %v, want it terminated with the reason %q", got, err, reason)
		}
		_, err = next.Execute(ctx, string(id), sandbox.ExecuteRequest{Code: "print 1"})
		wantError(t, "Execute", err, sandbox.Expired, reason, "reate a new one")
	}
	if got, err := next.GetExecution(ctx, string(e.ID), 5, sandbox.Window{}); err != nil || got.State != sandbox.ExecLost || !strings.Contains(got.Reason, "out of memory") {
		t.Errorf("the execution of the dead container = %+v, %v, want it lost", got, err)
	}
	waitUntil(t, "the guest of the remaining sandbox has the recorded expiry", func() bool { return eng.Expiry(present.ID).Unix() == present.ExpireTime.Unix() })
}
