package store_test

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

var discard = slog.New(slog.DiscardHandler)

func openStore(t testing.TB, path string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), path, discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func newPath(t testing.TB) string { return filepath.Join(t.TempDir(), "odd name?#%.db") }

var created = time.Date(2026, 11, 22, 12, 0, 0, 123456789, time.UTC)

func newRecord(uid int) store.Sandbox {
	return store.Sandbox{
		ID: sandbox.NewID(), DisplayName: "a name", State: sandbox.Provisioning, Language: sandbox.Python, Image: "i:1",
		Limits: sandbox.DefaultLimits(), UID: uid, Container: true, CreateTime: created, ExpireTime: created.Add(time.Hour), UsedTime: created,
	}
}

// addRunning stores a running sandbox.
func addRunning(t testing.TB, s *store.Store, r store.Sandbox) store.Sandbox {
	t.Helper()
	if err := errors.Join(s.AddSandbox(r), s.SetRunning(r.ID)); err != nil {
		t.Fatal(err)
	}
	r, err := s.Sandbox(t.Context(), r.ID)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func addExecution(t testing.TB, s *store.Store, id sandbox.ID, requestID string) store.Execution {
	t.Helper()
	e := store.Execution{RequestID: requestID, RequestHash: []byte{1, 2}, Execution: sandbox.Execution{
		ID: sandbox.NewExecutionID(), SandboxID: id, Language: sandbox.Python, State: sandbox.ExecQueued, TimeoutSeconds: 7, CreateTime: created,
	}}
	if err := s.AddExecution(e); err != nil {
		t.Fatalf("AddExecution() = %v, want no error", err)
	}
	return e
}

// TestReopenedStoreHasAllRecords checks that a reopened database contains all records that were stored, with times
// exact to the nanosecond.
func TestReopenedStoreHasAllRecords(t *testing.T) {
	path := newPath(t)
	s := openStore(t, path)
	r := newRecord(200_001)
	r.RequestID, r.RequestHash = "r", []byte("hash")
	addRunning(t, s, r)
	e := addExecution(t, s, r.ID, "e")
	done := e.Execution
	done.State, done.EndTime, done.OutputBytes = sandbox.ExecSucceeded, created.Add(time.Second), 99
	done.Events = []sandbox.Event{{Text: "secret"}}
	s.FinishExecution(done)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, path)
	got, err := s.SandboxByRequest(t.Context(), sandbox.Operator, "r")
	r.State, r.Seq = sandbox.Running, got.Seq
	if err != nil || fmt.Sprint(got) != fmt.Sprint(r) {
		t.Errorf("SandboxByRequest() = %+v, %v, want %+v", got, err, r)
	}
	found, err := s.ExecutionByRequest(t.Context(), sandbox.Operator, "e")
	if err != nil || found.State != sandbox.ExecSucceeded || found.OutputBytes != 99 || !found.EndTime.Equal(done.EndTime) || found.Events != nil || !bytes.Equal(found.RequestHash, []byte{1, 2}) {
		t.Errorf("ExecutionByRequest() = %+v, %v, want a succeeded execution without events", found, err)
	}
	if data, _ := os.ReadFile(path); bytes.Contains(data, []byte("secret")) {
		t.Error("the database contains output of an execution, want none")
	}
}

// TestKilledProcessLosesNoChange checks that a change is not lost if the process is killed at any time after the
// method that made the change has returned.
func TestKilledProcessLosesNoChange(t *testing.T) {
	path := newPath(t)
	s := openStore(t, path)
	r := addRunning(t, s, newRecord(200_001))
	var want []sandbox.ExecutionID
	for range 50 {
		want = append(want, addExecution(t, s, r.ID, "").ID)
	}
	copyPath := newPath(t)
	for _, suffix := range []string{"", "-wal"} { // copy the files without closing the store first
		data, err := os.ReadFile(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if suffix == "-wal" {
			data = append(data, "a write that was interrupted"...)
		}
		if err := os.WriteFile(copyPath+suffix, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, err := openStore(t, copyPath).Unfinished(t.Context())
	if err != nil || len(all) != len(want) {
		t.Fatalf("Unfinished() returns %d executions, %v, want %d", len(all), err, len(want))
	}
	for i, e := range all {
		if e.ID != want[i] {
			t.Errorf("execution %d is %s, want %s", i, e.ID, want[i])
		}
	}
}

// TestOpenRejectsUnusableFiles checks that Open returns an error that states what is wrong with a file, and does
// not change the file.
func TestOpenRejectsUnusableFiles(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(t *testing.T, path string)
		want string
	}{
		{"text", func(t *testing.T, path string) { writeFile(t, path, []byte(strings.Repeat("not a database ", 1000))) }, "damaged"},
		{"a database of another program", func(t *testing.T, path string) { execSQL(t, path, "CREATE TABLE x (y)") }, "not a Dormouse database"},
		{"a database of a newer Dormouse", func(t *testing.T, path string) {
			_ = openStore(t, path).Close()
			execSQL(t, path, "PRAGMA user_version = 99")
		}, "a newer Dormouse wrote it (schema 99"},
		{"a damaged database", func(t *testing.T, path string) {
			s := openStore(t, path)
			r := addRunning(t, s, newRecord(200_001))
			for range 300 {
				addExecution(t, s, r.ID, "")
			}
			_ = s.Close()
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for i := 8192; i < len(data)-4096; i += 4096 {
				copy(data[i:], bytes.Repeat([]byte{0x5a}, 2000))
			}
			writeFile(t, path, data)
		}, "damaged"},
		{"a folder", func(t *testing.T, path string) { _ = os.Mkdir(path, 0o700) }, "open the database"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.db")
			c.make(t, path)
			before, _ := os.ReadFile(path)
			_, err := store.Open(t.Context(), path, discard)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Open() = %v, want an error that contains %q", err, c.want)
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
				t.Error("Open changed the file that it rejected")
			}
		})
	}
}

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestOpenCreatesSchemaInEmptyFile checks that Open creates the schema in an empty file. Such a file remains if
// the first Open was interrupted.
func TestOpenCreatesSchemaInEmptyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	writeFile(t, path, nil)
	addRunning(t, openStore(t, path), newRecord(200_001))
}

// TestOnlyOwnerCanReadFiles checks that the database, its write-ahead log and its shared-memory file have mode
// 0600, even if the database had another mode before.
func TestOnlyOwnerCanReadFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	writeFile(t, path, nil)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	addRunning(t, openStore(t, path), newRecord(200_001))
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if info, err := os.Stat(path + suffix); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the mode of x.db%s: %v, %v, want 0600", suffix, info, err)
		}
	}
}

// TestTerminateSandboxMarksExecutionsLost checks that TerminateSandbox marks unfinished executions as lost and keeps
// final ones.
func TestTerminateSandboxMarksExecutionsLost(t *testing.T) {
	s := openStore(t, newPath(t))
	ctx := t.Context()
	r := addRunning(t, s, newRecord(200_001))
	done, running := addExecution(t, s, r.ID, ""), addExecution(t, s, r.ID, "")
	done.State = sandbox.ExecSucceeded
	s.FinishExecution(done.Execution)
	end := store.Termination{Cause: store.CauseExpired, Reason: "its TTL ended", Time: created.Add(time.Hour), Used: created.Add(time.Minute), Executions: "its sandbox was terminated"}
	if err := s.TerminateSandbox(r.ID, end); err != nil {
		t.Fatal(err)
	}
	if err := s.TerminateSandbox(r.ID, end); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the second TerminateSandbox() = %v, want ErrNotFound", err)
	}
	got, err := s.Sandbox(ctx, r.ID)
	if err != nil || got.State != sandbox.Terminated || got.Cause != store.CauseExpired || got.Reason != end.Reason || !got.UsedTime.Equal(end.Used) || !got.Container {
		t.Errorf("Sandbox() = %+v, %v, want it terminated and with Container set", got, err)
	}
	// This call comes after the sandbox was terminated, so it must change nothing.
	s.FinishExecution(sandbox.Execution{ID: running.ID, State: sandbox.ExecSucceeded})
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[sandbox.ExecutionID]sandbox.ExecutionState{done.ID: sandbox.ExecSucceeded, running.ID: sandbox.ExecLost} {
		if e, err := s.Execution(ctx, id); err != nil || e.State != want {
			t.Errorf("Execution() = %+v, %v, want the state %s", e, err, want)
		}
	}
	if err := s.AddExecution(store.Execution{Execution: sandbox.Execution{ID: "e", SandboxID: r.ID}}); !errors.Is(err, store.ErrNotRunning) {
		t.Errorf("AddExecution() = %v, want ErrNotRunning", err)
	}
	if err := s.UpdateSandbox(r.ID, "x", created); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("UpdateSandbox() = %v, want ErrNotFound", err)
	}
}

// TestRequestIDBelongsToOneRecord checks that a request id belongs to only one record, and that it can be used
// again when the execution was abandoned or the creation of the sandbox failed.
func TestRequestIDBelongsToOneRecord(t *testing.T) {
	s := openStore(t, newPath(t))
	a, b := newRecord(200_001), newRecord(200_002)
	a.RequestID, b.RequestID = "r", "r"
	addRunning(t, s, a)
	if err := s.AddSandbox(b); !errors.Is(err, store.ErrRequestTaken) {
		t.Errorf("AddSandbox() = %v, want ErrRequestTaken", err)
	}
	e := addExecution(t, s, a.ID, "e")
	if err := s.AddExecution(store.Execution{RequestID: "e", Execution: sandbox.Execution{ID: "x", SandboxID: a.ID}}); !errors.Is(err, store.ErrRequestTaken) {
		t.Errorf("AddExecution() = %v, want ErrRequestTaken", err)
	}
	e.State = sandbox.ExecLost
	if err := s.AbandonExecution(e.Execution); err != nil {
		t.Fatal(err)
	}
	addExecution(t, s, a.ID, "e")
	if err := s.TerminateSandbox(a.ID, store.Termination{Cause: store.CauseFailed}); err != nil {
		t.Fatal(err)
	}
	addRunning(t, s, b)
	if err := s.Ping(t.Context()); err != nil {
		t.Errorf("Ping() = %v", err)
	}
}

// TestUIDBelongsToOneContainer checks that no two containers have the same uid, and that a uid can be used again
// when its container is gone. A fork may have the uid of its original.
func TestUIDBelongsToOneContainer(t *testing.T) {
	s := openStore(t, newPath(t))
	a := addRunning(t, s, newRecord(200_001))
	if err := s.AddSandbox(newRecord(200_001)); err == nil {
		t.Error("AddSandbox() with the UID of a sandbox that has a container succeeded, want an error")
	}
	if err := s.TerminateSandbox(a.ID, store.Termination{Cause: store.CauseDeleted}); err != nil {
		t.Fatal(err)
	}
	s.SetContainerRemoved(a.ID)
	b := addRunning(t, s, newRecord(200_001))
	fork := newRecord(200_001)
	fork.ForkOf = b.ID
	addRunning(t, s, fork)
	if got, err := s.Sandbox(t.Context(), fork.ID); err != nil || got.ForkOf != b.ID || got.UID != b.UID {
		t.Errorf("Sandbox() of a fork = %+v, %v, want ForkOf %s and UID %d", got, err, b.ID, b.UID)
	}
	// Uids below 200,000 need not be unique, because these sandboxes do not share an operating-system kernel.
	addRunning(t, s, newRecord(199_999))
	addRunning(t, s, newRecord(199_999))
}

// execSQL runs statements on a database that is not open elsewhere.
func execSQL(t *testing.T, path, statements string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err == nil {
		_, err = db.Exec(statements)
	}
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestFirstSchemaIsMigrated checks that a database with the first schema is migrated and keeps its records.
func TestFirstSchemaIsMigrated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	s := openStore(t, path)
	first := newRecord(200_001)
	first.RequestID = "made"
	old := addRunning(t, s, first)
	ran := addExecution(t, s, old.ID, "ran")
	const epoch = 40
	final := ran.Execution
	final.State, final.KernelEpoch = sandbox.ExecSucceeded, epoch
	s.FinishExecution(final)
	damaged := addExecution(t, s, addRunning(t, s, newRecord(200_002)).ID, "damaged")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	execSQL(t, path, fmt.Sprintf("UPDATE executions SET final = 1, record = '{' WHERE id = '%s'", damaged.ID))
	for _, statement := range []string{"DROP INDEX sandboxes_by_request", "DROP INDEX sandboxes_by_name", "DROP INDEX executions_by_request",
		"ALTER TABLE sandboxes DROP COLUMN owner", "ALTER TABLE executions DROP COLUMN requester", "ALTER TABLE executions DROP COLUMN owner",
		"CREATE UNIQUE INDEX sandboxes_by_request ON sandboxes (request_id) WHERE request_id IS NOT NULL",
		"CREATE INDEX sandboxes_by_name ON sandboxes (display_name, seq) WHERE display_name <> ''",
		"CREATE UNIQUE INDEX executions_by_request ON executions (request_id) WHERE request_id IS NOT NULL"} {
		execSQL(t, path, statement)
	}
	for _, column := range []string{"saved_time", "rewound_as_of", "rewound_epoch", "rewound_owed", "epoch_bound"} {
		execSQL(t, path, "ALTER TABLE sandboxes DROP COLUMN "+column)
	}
	for _, statement := range []string{"DROP INDEX sandboxes_by_uid", "ALTER TABLE sandboxes DROP COLUMN fork_of",
		"CREATE UNIQUE INDEX sandboxes_by_uid ON sandboxes (uid) WHERE container = 1", "PRAGMA user_version = 1"} {
		execSQL(t, path, statement)
	}
	s = openStore(t, path)
	if got, err := s.Sandbox(t.Context(), old.ID); err != nil || got.UID != old.UID || got.ForkOf != "" || got.Owner != sandbox.Operator {
		t.Errorf("Sandbox() = %+v, %v, want %+v", got, err, old)
	}
	if got, err := s.SandboxByRequest(t.Context(), sandbox.Operator, "made"); err != nil || got.ID != old.ID {
		t.Errorf("SandboxByRequest() = %+v, %v, want %s", got, err, old.ID)
	}
	if got, err := s.ExecutionByRequest(t.Context(), sandbox.Operator, "ran"); err != nil || got.ID != ran.ID || got.Owner != sandbox.Operator {
		t.Errorf("ExecutionByRequest() = %+v, %v, want %s", got, err, ran.ID)
	}
	if got, err := s.Rewind(old.ID, store.Rewinding{AsOf: created, Time: created}); err != nil || got.Epoch <= epoch {
		t.Errorf("Rewind() = %+v, %v, want its epoch above %d, which an execution had before", got, err, epoch)
	}
	fork := newRecord(200_001)
	fork.ForkOf = old.ID
	addRunning(t, s, fork)
}

// TestOwnersAreSeparate checks that request ids and display names are separate for each owner. The operator can
// read all records, and other owners only their own.
func TestOwnersAreSeparate(t *testing.T) {
	s := openStore(t, newPath(t))
	ctx := t.Context()
	made := map[sandbox.Owner]store.Sandbox{}
	ran := map[sandbox.Owner]store.Execution{}
	for i, owner := range []sandbox.Owner{sandbox.Operator, "alice", "bob"} {
		r := newRecord(200_001 + i)
		r.Owner, r.RequestID = owner, "made"
		made[owner] = addRunning(t, s, r)
		e := store.Execution{Requester: owner, RequestID: "ran", Execution: sandbox.Execution{ID: sandbox.NewExecutionID(), SandboxID: r.ID, State: sandbox.ExecQueued}}
		if err := s.AddExecution(e); err != nil {
			t.Fatalf("AddExecution() of %q = %v", owner, err)
		}
		ran[owner] = e
		r.ID, r.UID = sandbox.NewID(), 200_100
		if err := s.AddSandbox(r); err != store.ErrRequestTaken {
			t.Errorf("the second AddSandbox() of %q = %v, want ErrRequestTaken", owner, err)
		}
		e.ID = sandbox.NewExecutionID()
		if err := s.AddExecution(e); err != store.ErrRequestTaken {
			t.Errorf("the second AddExecution() of %q = %v, want ErrRequestTaken", owner, err)
		}
	}
	for owner, want := range made {
		if want.Owner != owner {
			t.Errorf("the recorded owner is %q, want %q", want.Owner, owner)
		}
		if got, err := s.SandboxByRequest(ctx, owner, "made"); err != nil || got.ID != want.ID {
			t.Errorf("SandboxByRequest(%q) = %s, %v, want %s", owner, got.ID, err, want.ID)
		}
		if got, err := s.NewestNamed(ctx, owner, "a name"); err != nil || got.ID != want.ID {
			t.Errorf("NewestNamed(%q) = %s, %v, want %s", owner, got.ID, err, want.ID)
		}
		if got, err := s.ExecutionByRequest(ctx, owner, "ran"); err != nil || got.ID != ran[owner].ID || got.Owner != owner || got.Requester != owner {
			t.Errorf("ExecutionByRequest(%q) = %+v, %v, want %s", owner, got, err, ran[owner].ID)
		}
		for other, r := range made {
			var want error
			if owner != sandbox.Operator && owner != other {
				want = store.ErrNotFound
			}
			if _, err := s.SandboxFor(ctx, owner, r.ID); err != want {
				t.Errorf("SandboxFor(%q) for a sandbox of %q = %v, want %v", owner, other, err, want)
			}
			if _, err := s.ExecutionFor(ctx, owner, ran[other].ID); err != want {
				t.Errorf("ExecutionFor(%q) for an execution of %q = %v, want %v", owner, other, err, want)
			}
		}
		visible := 1
		if owner == sandbox.Operator {
			visible = 3
		}
		for _, state := range []sandbox.State{"", sandbox.Running} {
			if got, err := s.Sandboxes(ctx, owner, state, 0, 10); err != nil || len(got) != visible {
				t.Errorf("Sandboxes(%q, %q) returns %d sandboxes, %v, want %d", owner, state, len(got), err, visible)
			}
		}
	}
}

// TestSetStateUntilTerminated checks that a sandbox can be suspended and resumed any number of times until it is
// terminated.
func TestSetStateUntilTerminated(t *testing.T) {
	s := openStore(t, newPath(t))
	r := addRunning(t, s, newRecord(200_001))
	for _, state := range []sandbox.State{sandbox.Suspended, sandbox.Running, sandbox.Running, sandbox.Suspended} {
		if err := s.SetState(r.ID, state); err != nil {
			t.Errorf("SetState(%s) = %v", state, err)
		}
		if got, err := s.Sandbox(t.Context(), r.ID); err != nil || got.State != state {
			t.Errorf("Sandbox() has the state %s, %v, want %s", got.State, err, state)
		}
	}
	if err := s.TerminateSandbox(r.ID, store.Termination{Cause: store.CauseExpired}); err != nil {
		t.Fatal(err)
	}
	if err := s.SetState(r.ID, sandbox.Running); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("SetState() of a terminated sandbox = %v, want ErrNotFound", err)
	}
}

// TestFailedChangeDoesNotAffectOthers checks that concurrent changes share transactions, and that a change that
// fails does not affect the others.
func TestFailedChangeDoesNotAffectOthers(t *testing.T) {
	s := openStore(t, newPath(t))
	r := addRunning(t, s, newRecord(200_001))
	var wg sync.WaitGroup
	var mu sync.Mutex
	taken := 0
	for i := range 200 {
		wg.Go(func() {
			err := s.AddExecution(store.Execution{RequestID: fmt.Sprint(i % 100), Execution: sandbox.Execution{ID: sandbox.NewExecutionID(), SandboxID: r.ID}})
			mu.Lock()
			defer mu.Unlock()
			if errors.Is(err, store.ErrRequestTaken) {
				taken++
			} else if err != nil {
				t.Errorf("AddExecution() = %v, want no error", err)
			}
		})
	}
	wg.Wait()
	all, err := s.Unfinished(t.Context())
	if err != nil || len(all) != 100 || taken != 100 {
		t.Errorf("%d executions were stored and %d got ErrRequestTaken, %v; want 100 and 100", len(all), taken, err)
	}
}

// TestDeferredChangesAreWritten checks that deferred changes are written in order, even if no caller flushes them.
func TestDeferredChangesAreWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openStore(t, newPath(t))
		r := addRunning(t, s, newRecord(200_001))
		used := created.Add(time.Minute)
		s.SetUsed(map[sandbox.ID]time.Time{r.ID: used})
		s.SetUsed(map[sandbox.ID]time.Time{r.ID: created}) // this earlier time must not replace a later one
		time.Sleep(time.Second)
		synctest.Wait()
		if got, err := s.Sandbox(t.Context(), r.ID); err != nil || !got.UsedTime.Equal(used) {
			t.Errorf("the sandbox was used at %v, %v, want %v", got.UsedTime, err, used)
		}
	})
}

// TestPruneDeletesOldRecords checks that Prune deletes sandboxes that were terminated more than Retention ago,
// together with their executions, but keeps those whose container may still exist.
func TestPruneDeletesOldRecords(t *testing.T) {
	s := openStore(t, newPath(t))
	ctx := t.Context()
	removed, present, recent := addRunning(t, s, newRecord(200_001)), addRunning(t, s, newRecord(200_002)), addRunning(t, s, newRecord(200_003))
	e := addExecution(t, s, removed.ID, "")
	for _, r := range []store.Sandbox{removed, present, recent} {
		at := created
		if r.ID == recent.ID {
			at = created.Add(time.Hour)
		}
		if err := s.TerminateSandbox(r.ID, store.Termination{Cause: store.CauseDeleted, Time: at}); err != nil {
			t.Fatal(err)
		}
	}
	s.SetContainerRemoved(removed.ID)
	s.SetContainerRemoved(recent.ID)
	if err := s.Prune(created.Add(store.Retention + time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Sandbox(ctx, removed.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Sandbox() = %v, want ErrNotFound", err)
	}
	if _, err := s.Execution(ctx, e.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Execution() = %v, want ErrNotFound", err)
	}
	for _, id := range []sandbox.ID{present.ID, recent.ID} {
		if _, err := s.Sandbox(ctx, id); err != nil {
			t.Errorf("Sandbox(%s) = %v, want no error", id, err)
		}
	}
}

// TestExecutionRecordsAreLimited checks that the number and the size of a sandbox's execution records are limited.
func TestExecutionRecordsAreLimited(t *testing.T) {
	s := openStore(t, newPath(t))
	r := addRunning(t, s, newRecord(200_001))
	big := addExecution(t, s, r.ID, "").Execution
	big.State = sandbox.ExecFailed
	big.Error = &sandbox.CodeError{Name: "E", Message: "m", Traceback: strings.Repeat("x", 1<<20)}
	for range 10_000 {
		big.Files = append(big.Files, sandbox.File{Path: strings.Repeat("f", 100)})
	}
	s.FinishExecution(big)
	var wg sync.WaitGroup
	for range store.MaxExecutions + 5 {
		wg.Go(func() {
			e := sandbox.Execution{ID: sandbox.NewExecutionID(), SandboxID: r.ID, State: sandbox.ExecQueued}
			if err := s.AddExecution(store.Execution{Execution: e}); err != nil {
				t.Errorf("AddExecution() = %v, want no error", err)
			}
		})
	}
	wg.Wait()
	got, err := s.Execution(t.Context(), big.ID)
	if err != nil || len(got.Files) != 0 || len(got.FilesOmitted) != 1 || got.Error == nil || len(got.Error.Traceback) > 1<<18 {
		t.Errorf("the big record has %d files, %d omitted files and the error %v; error %v; want no files, one omitted and a short traceback", len(got.Files), len(got.FilesOmitted), got.Error, err)
	}
	if err := s.Prune(created); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Execution(t.Context(), big.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Execution() of the oldest execution = %v, want ErrNotFound", err)
	}
	if all, err := s.Unfinished(t.Context()); err != nil || len(all) != store.MaxExecutions+5 {
		t.Errorf("Unfinished() returns %d executions, %v, want %d", len(all), err, store.MaxExecutions+5)
	}
}

// TestClosedStoreRejectsChanges checks that Close can be called twice, that changes of a closed store fail, and
// that deferred changes do nothing.
func TestClosedStoreRejectsChanges(t *testing.T) {
	s := openStore(t, newPath(t))
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Errorf("Close() = %v, want no error", err)
	}
	if err := s.AddSandbox(newRecord(200_001)); !errors.Is(err, store.ErrClosed) {
		t.Errorf("AddSandbox() = %v, want ErrClosed", err)
	}
	s.SetUsed(map[sandbox.ID]time.Time{"x": created})
}
