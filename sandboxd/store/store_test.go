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

var noLog = slog.New(slog.DiscardHandler)

func open(t testing.TB, path string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), path, noLog)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func file(t testing.TB) string { return filepath.Join(t.TempDir(), "odd name?#%.db") }

var created = time.Date(2026, 11, 22, 12, 0, 0, 123456789, time.UTC)

func record(uid int) store.Sandbox {
	return store.Sandbox{
		ID: sandbox.NewID(), DisplayName: "a name", State: sandbox.Provisioning, Language: sandbox.Python, Image: "i:1",
		Limits: sandbox.DefaultLimits(), UID: uid, Container: true, CreateTime: created, ExpireTime: created.Add(time.Hour), UsedTime: created,
	}
}

// add stores a running sandbox.
func add(t testing.TB, s *store.Store, r store.Sandbox) store.Sandbox {
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

func accept(t testing.TB, s *store.Store, id sandbox.ID, requestID string) store.Execution {
	t.Helper()
	e := store.Execution{RequestID: requestID, RequestHash: []byte{1, 2}, Execution: sandbox.Execution{
		ID: sandbox.NewExecutionID(), SandboxID: id, Language: sandbox.Python, State: sandbox.ExecQueued, TimeoutSeconds: 7, CreateTime: created,
	}}
	if err := s.AddExecution(e); err != nil {
		t.Fatalf("AddExecution() = %v, want no error", err)
	}
	return e
}

// TestReopen checks that a reopened database contains all records that were stored, with times exact to the
// nanosecond.
func TestReopen(t *testing.T) {
	path := file(t)
	s := open(t, path)
	r := record(200_001)
	r.RequestID, r.RequestHash = "r", []byte("hash")
	add(t, s, r)
	e := accept(t, s, r.ID, "e")
	done := e.Execution
	done.State, done.EndTime, done.OutputBytes = sandbox.ExecSucceeded, created.Add(time.Second), 99
	done.Events = []sandbox.Event{{Text: "secret"}}
	s.FinishExecution(done)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	got, err := s.SandboxByRequest(t.Context(), sandbox.Operator, "r")
	r.State, r.Seq = sandbox.Running, got.Seq
	if err != nil || fmt.Sprint(got) != fmt.Sprint(r) {
		t.Errorf("SandboxByRequest() = %+v, %v, want %+v", got, err, r)
	}
	found, err := s.ExecutionByRequest(t.Context(), sandbox.Operator, "e")
	if err != nil || found.State != sandbox.ExecSucceeded || found.OutputBytes != 99 || !found.EndTime.Equal(done.EndTime) || found.Events != nil || !bytes.Equal(found.RequestHash, []byte{1, 2}) {
		t.Errorf("ExecutionByRequest() = %+v, %v, want it succeeded, without events", found, err)
	}
	if data, _ := os.ReadFile(path); bytes.Contains(data, []byte("secret")) {
		t.Error("the database contains output, want none")
	}
}

// TestAbruptEnd checks that a change is not lost if the process is killed at any time after the method that made
// the change has returned.
func TestAbruptEnd(t *testing.T) {
	path := file(t)
	s := open(t, path)
	r := add(t, s, record(200_001))
	var want []sandbox.ExecutionID
	for range 50 {
		want = append(want, accept(t, s, r.ID, "").ID)
	}
	copied := file(t)
	for _, suffix := range []string{"", "-wal"} { // copy the files without closing the store first
		data, err := os.ReadFile(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if suffix == "-wal" {
			data = append(data, "a torn write at the end"...)
		}
		if err := os.WriteFile(copied+suffix, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, err := open(t, copied).Unfinished(t.Context())
	if err != nil || len(all) != len(want) {
		t.Fatalf("Unfinished() = %d, %v, want %d", len(all), err, len(want))
	}
	for i, e := range all {
		if e.ID != want[i] {
			t.Errorf("execution %d is %s, want %s", i, e.ID, want[i])
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(t *testing.T, path string)
		want string
	}{
		{"text", func(t *testing.T, path string) { write(t, path, []byte(strings.Repeat("not a database ", 1000))) }, "damaged"},
		{"a database of another program", func(t *testing.T, path string) { raw(t, path, "CREATE TABLE x (y)") }, "not a Dormouse database"},
		{"a database of a newer Dormouse", func(t *testing.T, path string) {
			_ = open(t, path).Close()
			raw(t, path, "PRAGMA user_version = 99")
		}, "a newer Dormouse wrote it (schema 99"},
		{"a damaged database", func(t *testing.T, path string) {
			s := open(t, path)
			r := add(t, s, record(200_001))
			for range 300 {
				accept(t, s, r.ID, "")
			}
			_ = s.Close()
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for i := 8192; i < len(data)-4096; i += 4096 {
				copy(data[i:], bytes.Repeat([]byte{0x5a}, 2000))
			}
			write(t, path, data)
		}, "damaged"},
		{"a folder", func(t *testing.T, path string) { _ = os.Mkdir(path, 0o700) }, "open the database"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.db")
			c.make(t, path)
			before, _ := os.ReadFile(path)
			_, err := store.Open(t.Context(), path, noLog)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Open() = %v, want an error that says %q", err, c.want)
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
				t.Error("the refused file was changed")
			}
		})
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestOpenUnfinished checks that Open creates the schema in an empty file. Such a file remains if the first Open
// was interrupted.
func TestOpenUnfinished(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	write(t, path, nil)
	add(t, open(t, path), record(200_001))
}

// TestMode checks that the database, its write-ahead log and its shared-memory file have mode 0600, even if the
// database had another mode before.
func TestMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	write(t, path, nil)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	add(t, open(t, path), record(200_001))
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if info, err := os.Stat(path + suffix); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode of %q: %v, %v, want 0600", suffix, info, err)
		}
	}
}

// TestEndSandbox checks that EndSandbox marks unfinished executions as lost and does not change final ones.
func TestEndSandbox(t *testing.T) {
	s := open(t, file(t))
	ctx := t.Context()
	r := add(t, s, record(200_001))
	done, running := accept(t, s, r.ID, ""), accept(t, s, r.ID, "")
	done.State = sandbox.ExecSucceeded
	s.FinishExecution(done.Execution)
	end := store.End{Cause: store.CauseExpired, Reason: "its time was over", Time: created.Add(time.Hour), Used: created.Add(time.Minute), Executions: "its sandbox ended"}
	if err := s.EndSandbox(r.ID, end); err != nil {
		t.Fatal(err)
	}
	if err := s.EndSandbox(r.ID, end); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the second EndSandbox() = %v, want ErrNotFound", err)
	}
	got, err := s.Sandbox(ctx, r.ID)
	if err != nil || got.State != sandbox.Terminated || got.Cause != store.CauseExpired || got.Reason != end.Reason || !got.UsedTime.Equal(end.Used) || !got.Container {
		t.Errorf("Sandbox() = %+v, %v, want it terminated, its container still there", got, err)
	}
	// This call comes after the sandbox was terminated, so it must change nothing.
	s.FinishExecution(sandbox.Execution{ID: running.ID, State: sandbox.ExecSucceeded})
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[sandbox.ExecutionID]sandbox.ExecutionState{done.ID: sandbox.ExecSucceeded, running.ID: sandbox.ExecLost} {
		if e, err := s.Execution(ctx, id); err != nil || e.State != want {
			t.Errorf("Execution() = %+v, %v, want %s", e, err, want)
		}
	}
	if err := s.AddExecution(store.Execution{Execution: sandbox.Execution{ID: "e", SandboxID: r.ID}}); !errors.Is(err, store.ErrEnded) {
		t.Errorf("AddExecution() = %v, want ErrEnded", err)
	}
	if err := s.UpdateSandbox(r.ID, "x", created); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("UpdateSandbox() = %v, want ErrNotFound", err)
	}
}

// TestRequestIDs checks that a request id belongs to only one record, and that it can be used again when the
// execution was abandoned or the creation of the sandbox failed.
func TestRequestIDs(t *testing.T) {
	s := open(t, file(t))
	a, b := record(200_001), record(200_002)
	a.RequestID, b.RequestID = "r", "r"
	add(t, s, a)
	if err := s.AddSandbox(b); !errors.Is(err, store.ErrRequestTaken) {
		t.Errorf("AddSandbox() = %v, want ErrRequestTaken", err)
	}
	e := accept(t, s, a.ID, "e")
	if err := s.AddExecution(store.Execution{RequestID: "e", Execution: sandbox.Execution{ID: "x", SandboxID: a.ID}}); !errors.Is(err, store.ErrRequestTaken) {
		t.Errorf("AddExecution() = %v, want ErrRequestTaken", err)
	}
	e.State = sandbox.ExecLost
	if err := s.AbandonExecution(e.Execution); err != nil {
		t.Fatal(err)
	}
	accept(t, s, a.ID, "e")
	if err := s.EndSandbox(a.ID, store.End{Cause: store.CauseFailed}); err != nil {
		t.Fatal(err)
	}
	add(t, s, b)
	if err := s.Ping(t.Context()); err != nil {
		t.Errorf("Ping() = %v", err)
	}
}

// TestUIDs checks that no two containers have the same uid, and that a uid can be used again when its container
// is gone. A fork may have the uid of its original.
func TestUIDs(t *testing.T) {
	s := open(t, file(t))
	a := add(t, s, record(200_001))
	if err := s.AddSandbox(record(200_001)); err == nil {
		t.Error("AddSandbox() with the UID of a sandbox that has a container succeeded, want an error")
	}
	if err := s.EndSandbox(a.ID, store.End{Cause: store.CauseDeleted}); err != nil {
		t.Fatal(err)
	}
	s.ContainerGone(a.ID)
	b := add(t, s, record(200_001))
	fork := record(200_001)
	fork.ForkOf = b.ID
	add(t, s, fork)
	if got, err := s.Sandbox(t.Context(), fork.ID); err != nil || got.ForkOf != b.ID || got.UID != b.UID {
		t.Errorf("Sandbox() of a fork = %+v, %v, want it to name its original", got, err)
	}
	// Uids below 200,000 need not be unique, because these sandboxes do not share an operating-system kernel.
	add(t, s, record(199_999))
	add(t, s, record(199_999))
}

// raw runs statements on a database that is not open elsewhere.
func raw(t *testing.T, path, statements string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err == nil {
		_, err = db.Exec(statements)
	}
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestFirstSchema checks that a database with the first schema is migrated and keeps its records.
func TestFirstSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	s := open(t, path)
	first := record(200_001)
	first.RequestID = "made"
	old := add(t, s, first)
	ran := accept(t, s, old.ID, "ran")
	const epoch = 40
	ended := ran.Execution
	ended.State, ended.KernelEpoch = sandbox.ExecSucceeded, epoch
	s.FinishExecution(ended)
	torn := accept(t, s, add(t, s, record(200_002)).ID, "torn")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	raw(t, path, fmt.Sprintf("UPDATE executions SET final = 1, record = '{' WHERE id = '%s'", torn.ID))
	for _, back := range []string{"DROP INDEX sandboxes_by_request", "DROP INDEX sandboxes_by_name", "DROP INDEX executions_by_request",
		"ALTER TABLE sandboxes DROP COLUMN owner", "ALTER TABLE executions DROP COLUMN requester", "ALTER TABLE executions DROP COLUMN owner",
		"CREATE UNIQUE INDEX sandboxes_by_request ON sandboxes (request_id) WHERE request_id IS NOT NULL",
		"CREATE INDEX sandboxes_by_name ON sandboxes (display_name, seq) WHERE display_name <> ''",
		"CREATE UNIQUE INDEX executions_by_request ON executions (request_id) WHERE request_id IS NOT NULL"} {
		raw(t, path, back)
	}
	for _, column := range []string{"saved_time", "rewound_as_of", "rewound_epoch", "rewound_owed", "epoch_bound"} {
		raw(t, path, "ALTER TABLE sandboxes DROP COLUMN "+column)
	}
	for _, back := range []string{"DROP INDEX sandboxes_by_uid", "ALTER TABLE sandboxes DROP COLUMN fork_of",
		"CREATE UNIQUE INDEX sandboxes_by_uid ON sandboxes (uid) WHERE container = 1", "PRAGMA user_version = 1"} {
		raw(t, path, back)
	}
	s = open(t, path)
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
	fork := record(200_001)
	fork.ForkOf = old.ID
	add(t, s, fork)
}

// TestOwners checks that request ids and display names are separate for each owner. The operator can read all
// records, and other owners only their own.
func TestOwners(t *testing.T) {
	s := open(t, file(t))
	ctx := t.Context()
	made := map[sandbox.Owner]store.Sandbox{}
	ran := map[sandbox.Owner]store.Execution{}
	for i, owner := range []sandbox.Owner{sandbox.Operator, "alice", "bob"} {
		r := record(200_001 + i)
		r.Owner, r.RequestID = owner, "made"
		made[owner] = add(t, s, r)
		e := store.Execution{Requester: owner, RequestID: "ran", Execution: sandbox.Execution{ID: sandbox.NewExecutionID(), SandboxID: r.ID, State: sandbox.ExecQueued}}
		if err := s.AddExecution(e); err != nil {
			t.Fatalf("AddExecution() of %q = %v", owner, err)
		}
		ran[owner] = e
		r.ID, r.UID = sandbox.NewID(), 200_100
		if err := s.AddSandbox(r); err != store.ErrRequestTaken {
			t.Errorf("AddSandbox() again of %q = %v, want ErrRequestTaken", owner, err)
		}
		e.ID = sandbox.NewExecutionID()
		if err := s.AddExecution(e); err != store.ErrRequestTaken {
			t.Errorf("AddExecution() again of %q = %v, want ErrRequestTaken", owner, err)
		}
	}
	for owner, want := range made {
		if want.Owner != owner {
			t.Errorf("the owner on record is %q, want %q", want.Owner, owner)
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
			sees := owner == sandbox.Operator || owner == other
			if _, err := s.SandboxFor(ctx, owner, r.ID); (err == nil) != sees || err != nil && err != store.ErrNotFound {
				t.Errorf("SandboxFor(%q) of %q's = %v", owner, other, err)
			}
			if _, err := s.ExecutionFor(ctx, owner, ran[other].ID); (err == nil) != sees || err != nil && err != store.ErrNotFound {
				t.Errorf("ExecutionFor(%q) of %q's = %v", owner, other, err)
			}
		}
		see := 1
		if owner == sandbox.Operator {
			see = 3
		}
		for _, state := range []sandbox.State{"", sandbox.Running} {
			if got, err := s.Sandboxes(ctx, owner, state, 0, 10); err != nil || len(got) != see {
				t.Errorf("Sandboxes(%q, %q) = %d, %v, want %d", owner, state, len(got), err, see)
			}
		}
	}
}

// TestSetState checks that a sandbox can be suspended and resumed any number of times until it is terminated.
func TestSetState(t *testing.T) {
	s := open(t, file(t))
	r := add(t, s, record(200_001))
	for _, state := range []sandbox.State{sandbox.Suspended, sandbox.Running, sandbox.Running, sandbox.Suspended} {
		if err := s.SetState(r.ID, state); err != nil {
			t.Errorf("SetState(%s) = %v", state, err)
		}
		if got, err := s.Sandbox(t.Context(), r.ID); err != nil || got.State != state {
			t.Errorf("it is %s, %v, want %s", got.State, err, state)
		}
	}
	if err := s.EndSandbox(r.ID, store.End{Cause: store.CauseExpired}); err != nil {
		t.Fatal(err)
	}
	if err := s.SetState(r.ID, sandbox.Running); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("SetState() of a terminated sandbox = %v, want ErrNotFound", err)
	}
}

// TestGroups checks that concurrent changes share transactions, and that a change that fails does not affect the
// others.
func TestGroups(t *testing.T) {
	s := open(t, file(t))
	r := add(t, s, record(200_001))
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
		t.Errorf("%d stored, %d taken, %v, want 100 and 100", len(all), taken, err)
	}
}

// TestSoon checks that deferred changes are written in order, even if no caller flushes them.
func TestSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, file(t))
		r := add(t, s, record(200_001))
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

// TestPrune checks that Prune deletes sandboxes that were terminated more than Retention ago, together with
// their executions, but keeps those whose container may still exist.
func TestPrune(t *testing.T) {
	s := open(t, file(t))
	ctx := t.Context()
	gone, present, recent := add(t, s, record(200_001)), add(t, s, record(200_002)), add(t, s, record(200_003))
	e := accept(t, s, gone.ID, "")
	for _, r := range []store.Sandbox{gone, present, recent} {
		at := created
		if r.ID == recent.ID {
			at = created.Add(time.Hour)
		}
		if err := s.EndSandbox(r.ID, store.End{Cause: store.CauseDeleted, Time: at}); err != nil {
			t.Fatal(err)
		}
	}
	s.ContainerGone(gone.ID)
	s.ContainerGone(recent.ID)
	if err := s.Prune(created.Add(store.Retention + time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Sandbox(ctx, gone.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Sandbox() = %v, want ErrNotFound", err)
	}
	if _, err := s.Execution(ctx, e.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Execution() = %v, want ErrNotFound", err)
	}
	for _, id := range []sandbox.ID{present.ID, recent.ID} {
		if _, err := s.Sandbox(ctx, id); err != nil {
			t.Errorf("Sandbox() = %v", err)
		}
	}
}

// TestBounds checks that the number and the size of a sandbox's execution records are limited.
func TestBounds(t *testing.T) {
	s := open(t, file(t))
	r := add(t, s, record(200_001))
	big := accept(t, s, r.ID, "").Execution
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
		t.Errorf("the big record has %d files, %v", len(got.Files), err)
	}
	if err := s.Prune(created); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Execution(t.Context(), big.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Execution() of the oldest = %v, want ErrNotFound", err)
	}
	if all, err := s.Unfinished(t.Context()); err != nil || len(all) != store.MaxExecutions+5 {
		t.Errorf("%d unfinished, %v: none of them may be dropped", len(all), err)
	}
}

func TestClosed(t *testing.T) {
	s := open(t, file(t))
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Errorf("Close() = %v", err)
	}
	if err := s.AddSandbox(record(200_001)); !errors.Is(err, store.ErrClosed) {
		t.Errorf("AddSandbox() = %v, want ErrClosed", err)
	}
	s.SetUsed(map[sandbox.ID]time.Time{"x": created})
}
