package manager_test

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/fake"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// daemon is a manager with its store. The engine can outlive it.
type daemon struct {
	*manager.Manager
	store *store.Store
	path  string
	eng   *fake.Engine
}

// startDaemon starts a daemon on the database at path and the engine eng.
func startDaemon(t testing.TB, path string, eng engine.Engine, change ...func(*manager.Config)) *daemon {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("DORMOUSE_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	s, err := store.Open(t.Context(), path, log)
	if err != nil {
		t.Fatal(err)
	}
	cfg := manager.Config{Store: s, Engine: eng, DefaultImage: "default:1", Logger: log}
	for _, c := range change {
		c(&cfg)
	}
	m, err := manager.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	d := &daemon{Manager: m, store: s, path: path}
	d.eng, _ = eng.(*fake.Engine)
	return d
}

// stop stops the manager and closes its store.
func (d *daemon) stop(t testing.TB) {
	t.Helper()
	d.Close()
	if err := d.store.Close(); err != nil {
		t.Errorf("Close() = %v", err)
	}
}

// newDaemon starts a daemon with its own fake engine, and stops both at the end of the test. It can be used inside of a
// synctest bubble.
func newDaemon(t testing.TB, change ...func(*manager.Config)) *daemon {
	t.Helper()
	d := startDaemon(t, filepath.Join(t.TempDir(), "dormouse.db"), fake.NewEngine(), change...)
	t.Cleanup(func() {
		d.stop(t)
		_ = d.eng.Close()
	})
	return d
}

func (d *daemon) create(t testing.TB, req sandbox.CreateRequest) sandbox.Sandbox {
	t.Helper()
	sb, err := d.Create(t.Context(), req)
	if err != nil {
		t.Fatalf("Create(%+v) = %v", req, err)
	}
	return sb
}

// Execute validates a request, as the API handler and the tools do, and executes it.
func (d *daemon) Execute(ctx context.Context, name string, req sandbox.ExecuteRequest) (sandbox.Execution, error) {
	if err := req.Validate(""); err != nil {
		return sandbox.Execution{}, err
	}
	return d.Manager.Execute(ctx, name, req)
}

// execute runs code in a sandbox and waits up to wait seconds for its end.
func (d *daemon) execute(t testing.TB, id sandbox.ID, code string, wait float64) sandbox.Execution {
	t.Helper()
	e, err := d.Execute(t.Context(), string(id), sandbox.ExecuteRequest{Code: code, WaitSeconds: wait})
	if err != nil {
		t.Fatalf("Execute(%q) = %v", code, err)
	}
	return e
}

func output(e sandbox.Execution) string {
	var b strings.Builder
	for _, ev := range e.Events {
		b.WriteString(ev.Text)
	}
	return b.String()
}

// wantError checks the kind of an error, and that its message contains each of the parts. call names the call in the
// failure.
func wantError(t testing.TB, call string, err error, kind sandbox.Kind, parts ...string) {
	t.Helper()
	if err == nil || sandbox.KindOf(err) != kind {
		t.Errorf("%s = %v (%s), want kind %s", call, err, sandbox.KindOf(err), kind)
		return
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("%s = %q, want it to contain %q", call, err, p)
		}
	}
}

// waitUntil waits until holds returns true, and fails the test after a minute. condition describes the condition as a
// clause, for the failure.
func waitUntil(t testing.TB, condition string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still false after a minute: %s", condition)
		}
	}
}

// TestSandboxFromCreationToDeletion checks what clients see of a sandbox, from its creation to its deletion.
func TestSandboxFromCreationToDeletion(t *testing.T) {
	d := newDaemon(t)
	ctx := t.Context()
	sb := d.create(t, sandbox.CreateRequest{DisplayName: "first", TTL: sandbox.Duration(time.Hour)})
	if sb.State != sandbox.Running || sb.Language != sandbox.Python || sb.Image != "default:1" || sb.Engine != "test" {
		t.Errorf("Create() = %+v, want a running Python sandbox", sb)
	}
	if got := sb.ExpireTime.Sub(sb.CreateTime); got != time.Hour {
		t.Errorf("its TTL is %v, want 1h", got)
	}
	e := d.execute(t, sb.ID, "print hello", 5)
	if e.State != sandbox.ExecSucceeded || output(e) != "hello" || e.SandboxID != sb.ID {
		t.Errorf("Execute() = %+v, want it succeeded with the output hello", e)
	}
	got, err := d.Get(ctx, "first")
	if err != nil || got.ID != sb.ID || got.Usage == nil || len(got.Kernels) != 1 || !got.LastUsed.After(sb.CreateTime) {
		t.Errorf("Get(first) = %+v, %v, want the sandbox with its usage", got, err)
	}
	page, err := d.List(ctx, sandbox.ListRequest{})
	if err != nil || len(page.Sandboxes) != 1 || page.Sandboxes[0].ID != sb.ID {
		t.Errorf("List() = %+v, %v, want the sandbox", page, err)
	}
	if err := d.Delete(ctx, "first"); err != nil {
		t.Fatalf("Delete() = %v", err)
	}
	if ids := d.eng.IDs(); len(ids) != 0 {
		t.Errorf("containers after Delete = %v, want none", ids)
	}
	wantError(t, "the second Delete", d.Delete(ctx, string(sb.ID)), sandbox.NotFound, "was deleted")
	_, err = d.Get(ctx, string(sb.ID))
	wantError(t, "Get", err, sandbox.NotFound, "was deleted")
	_, err = d.Execute(ctx, string(sb.ID), sandbox.ExecuteRequest{Code: "print 1"})
	wantError(t, "Execute", err, sandbox.NotFound, "was deleted")
	final, err := d.GetExecution(ctx, string(e.ID), 1, sandbox.Window{})
	if err != nil || final.State != sandbox.ExecSucceeded || !final.OutputGone || !strings.Contains(final.Reason, "deleted") || len(final.Events) != 0 {
		t.Errorf("GetExecution() = %+v, %v, want it succeeded, without output", final, err)
	}
}

func TestFilesAreWrittenAndRead(t *testing.T) {
	d := newDaemon(t)
	ctx := t.Context()
	id := string(d.create(t, sandbox.CreateRequest{}).ID)
	f, err := d.WriteFile(ctx, id, "a/b.txt", strings.NewReader("0123456789"))
	if err != nil || f.Path != "a/b.txt" || f.Size != 10 {
		t.Errorf("WriteFile() = %+v, %v, want a/b.txt with 10 bytes", f, err)
	}
	d.eng.Guest(sandbox.ID(id)).BreakConnections()
	body, f, err := d.ReadFile(ctx, id, "a/b.txt", 2, 3)
	if err != nil || f.Size != 10 {
		t.Fatalf("ReadFile() = %+v, %v", f, err)
	}
	if part, err := io.ReadAll(body); string(part) != "234" || err != nil {
		t.Errorf("ReadFile() returns %q, %v, want 234", part, err)
	}
	body.Close()
	files, _, err := d.ListFiles(ctx, id)
	if err != nil || len(files) != 1 {
		t.Errorf("ListFiles() = %v, %v, want one file", files, err)
	}
	_, _, err = d.ReadFile(ctx, id, "none", 0, -1)
	wantError(t, "ReadFile(none)", err, sandbox.NotFound)
	_, err = d.WriteFile(ctx, id, "x", io.MultiReader(strings.NewReader("half"), brokenReader{}))
	wantError(t, "WriteFile(broken)", err, sandbox.Invalid, "incomplete")
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, context.Canceled }

func TestUpdateSetsNameAndExpiry(t *testing.T) {
	d := newDaemon(t)
	ctx := t.Context()
	sb := d.create(t, sandbox.CreateRequest{DisplayName: "old"})
	ttl, name := sandbox.Duration(2*time.Hour), "new"
	got, err := d.Update(ctx, "old", sandbox.UpdateRequest{TTL: &ttl, DisplayName: &name})
	if left := time.Until(got.ExpireTime); err != nil || got.DisplayName != "new" || left > 2*time.Hour || left < 2*time.Hour-time.Minute {
		t.Errorf("Update() = %+v, %v, want the display name new and an expiry in 2h", got, err)
	}
	if expiry := d.eng.Expiry(sb.ID); expiry.Unix() != got.ExpireTime.Unix() {
		t.Errorf("the guest's expiry is %v, want %v", expiry, got.ExpireTime)
	}
	_, err = d.Get(ctx, "old")
	wantError(t, "Get(old)", err, sandbox.NotFound)
}

func TestDisplayNameMustBeUnambiguous(t *testing.T) {
	d := newDaemon(t)
	ctx := t.Context()
	a := d.create(t, sandbox.CreateRequest{DisplayName: "same"})
	b := d.create(t, sandbox.CreateRequest{DisplayName: "same"})
	_, err := d.Get(ctx, "same")
	wantError(t, "Get(same)", err, sandbox.Invalid, string(a.ID), string(b.ID))
	if err := d.Delete(ctx, string(a.ID)); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Get(ctx, "same"); err != nil || got.ID != b.ID {
		t.Errorf("Get(same) = %v, %v, want %s, the sandbox that was not deleted", got.ID, err, b.ID)
	}
	for _, name := range []string{"unknown", string(sandbox.NewID()), "sbx_x", "\x00", "sbx_\xff", strings.Repeat("x", 1<<20), "'; DROP TABLE sandboxes"} {
		_, err := d.Get(ctx, name)
		wantError(t, "Get of an unknown name", err, sandbox.NotFound)
		_, err = d.GetExecution(ctx, name, 0, sandbox.Window{})
		wantError(t, "GetExecution of an unknown name", err, sandbox.NotFound)
	}
	_, err = d.Get(ctx, "")
	wantError(t, "Get of an empty name", err, sandbox.Invalid)
}

// TestPagesStayConsistent checks that the pages of List remain consistent while sandboxes are created.
func TestPagesStayConsistent(t *testing.T) {
	d := newDaemon(t)
	ctx := t.Context()
	var ids []sandbox.ID
	for range 7 {
		ids = append(ids, d.create(t, sandbox.CreateRequest{}).ID)
	}
	var seen []sandbox.ID
	req := sandbox.ListRequest{PageSize: 3}
	for {
		page, err := d.List(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range page.Sandboxes {
			seen = append(seen, s.ID)
		}
		if req.PageToken = page.NextPageToken; req.PageToken == "" {
			break
		}
		d.create(t, sandbox.CreateRequest{})
	}
	for i, id := range seen {
		if want := ids[len(ids)-1-i]; id != want {
			t.Errorf("sandbox %d of the pages is %s, want %s", i, id, want)
		}
	}
	if len(seen) != len(ids) {
		t.Errorf("the pages contain %d sandboxes, want %d", len(seen), len(ids))
	}
	_, err := d.List(ctx, sandbox.ListRequest{PageToken: "nonsense"})
	wantError(t, "List(nonsense)", err, sandbox.Invalid)
	page, err := d.List(ctx, sandbox.ListRequest{State: sandbox.Terminated})
	if err != nil || len(page.Sandboxes) != 0 {
		t.Errorf("List(terminated) = %v, %v, want none", page, err)
	}
}
