package manager_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/manager"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/fake"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestCreateRespectsLimits checks the limits of the configuration: images, memory, CPUs and the number of
// sandboxes. An error recommends less memory only if that helps.
func TestCreateRespectsLimits(t *testing.T) {
	d := newDaemon(t, func(c *manager.Config) {
		c.MaxSandboxes, c.MaxMemory, c.AllowImages = 3, 6<<30, []string{"other:2"}
	})
	ctx := t.Context()
	_, err := d.Create(ctx, sandbox.CreateRequest{Image: "evil:1"})
	wantError(t, "Create(evil:1)", err, sandbox.Invalid, "--allow-image")
	if sb := d.create(t, sandbox.CreateRequest{Image: "other:2", MemoryMB: 256}); sb.Image != "other:2" {
		t.Errorf("image = %s, want other:2", sb.Image)
	}
	_, err = d.Create(ctx, sandbox.CreateRequest{MemoryMB: 6000})
	wantError(t, "Create above MaxMemory", err, sandbox.Limit, "6144 MB", "delete", "less memory_mb")
	_, err = d.Create(ctx, sandbox.CreateRequest{CPUs: 5})
	wantError(t, "Create with more CPUs than there are", err, sandbox.Invalid, "cpus")
	d.create(t, sandbox.CreateRequest{})
	last := d.create(t, sandbox.CreateRequest{})
	_, err = d.Create(ctx, sandbox.CreateRequest{MemoryMB: 128})
	wantError(t, "the fourth Create", err, sandbox.Limit, "3 sandboxes", "delete")
	if strings.Contains(err.Error(), "memory_mb") {
		t.Errorf("Create() = %v, want an error that does not recommend less memory", err)
	}
	if err := d.Delete(ctx, string(last.ID)); err != nil {
		t.Fatal(err)
	}
	d.create(t, sandbox.CreateRequest{})
}

// TestCreateRetryReturnsFirstSandbox checks that concurrent requests with the same request id create one sandbox, and
// that another request with that id fails.
func TestCreateRetryReturnsFirstSandbox(t *testing.T) {
	d := newDaemon(t)
	ctx := t.Context()
	var ids sync.Map
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			sb, err := d.Create(ctx, sandbox.CreateRequest{RequestID: "r1"})
			if err != nil {
				t.Errorf("Create() = %v", err)
			}
			ids.Store(sb.ID, true)
		})
	}
	wg.Wait()
	n := 0
	ids.Range(func(any, any) bool { n++; return true })
	if n != 1 || len(d.eng.IDs()) != 1 {
		t.Errorf("eight requests with one request id created %d sandboxes and %d containers, want 1", n, len(d.eng.IDs()))
	}
	_, err := d.Create(ctx, sandbox.CreateRequest{RequestID: "r1", DisplayName: "other"})
	wantError(t, "another Create with the same id", err, sandbox.Invalid, "request_id")
}

// TestFailedCreateLeavesNothing checks that a failed creation leaves no record and no container, and that its
// request id can be used again.
func TestFailedCreateLeavesNothing(t *testing.T) {
	d := newDaemon(t)
	ctx := t.Context()
	d.eng.FailCreate = sandbox.Errorf(sandbox.Unavailable, "there is no image default:1")
	_, err := d.Create(ctx, sandbox.CreateRequest{RequestID: "r"})
	wantError(t, "Create", err, sandbox.Unavailable, "no image")
	for _, state := range []sandbox.State{"", sandbox.Terminated} {
		if page, _ := d.List(ctx, sandbox.ListRequest{State: state}); len(page.Sandboxes) != 0 {
			t.Errorf("List(%q) = %+v, want none", state, page.Sandboxes)
		}
	}
	d.eng.FailCreate = nil
	d.create(t, sandbox.CreateRequest{RequestID: "r"})
}

// TestCancelledCreateIsUndone checks that a sandbox is removed if its caller gives up while it is being created, unless
// the request had a request id, with which a retry can find the sandbox.
func TestCancelledCreateIsUndone(t *testing.T) {
	d := newDaemon(t)
	gate := make(chan struct{})
	d.eng.CreateGate = gate
	for _, requestID := range []string{"", "r"} {
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		go func() {
			_, err := d.Create(ctx, sandbox.CreateRequest{RequestID: requestID, DisplayName: "x" + requestID})
			failed <- err
		}()
		waitUntil(t, "the sandbox is being created", func() bool {
			got, err := d.Get(t.Context(), "x"+requestID)
			return err == nil && got.State == sandbox.Provisioning
		})
		cancel()
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Errorf("Create() = %v, want canceled", err)
		}
	}
	waitUntil(t, "the sandbox without a request id is removed", func() bool {
		_, err := d.Get(t.Context(), "x")
		return sandbox.KindOf(err) == sandbox.NotFound
	})
	close(gate)
	sb := d.create(t, sandbox.CreateRequest{RequestID: "r", DisplayName: "xr"})
	if ids := d.eng.IDs(); len(ids) != 1 || ids[0] != sb.ID {
		t.Errorf("containers = %v, want only %s", ids, sb.ID)
	}
}

// TestProvisioningSandboxCanBeDeleted checks that a sandbox that is being created can be deleted. Delete waits
// until the creation has ended.
func TestProvisioningSandboxCanBeDeleted(t *testing.T) {
	d := newDaemon(t)
	ctx := t.Context()
	d.eng.CreateGate = make(chan struct{})
	failed := make(chan error, 1)
	go func() {
		_, err := d.Create(ctx, sandbox.CreateRequest{DisplayName: "x"})
		failed <- err
	}()
	waitUntil(t, "the sandbox is being created", func() bool { _, err := d.Get(ctx, "x"); return err == nil })
	if err := d.Delete(ctx, "x"); err != nil {
		t.Errorf("Delete() = %v", err)
	}
	wantError(t, "Create", <-failed, sandbox.NotFound, "deleted")
	if ids := d.eng.IDs(); len(ids) != 0 {
		t.Errorf("containers = %v, want none", ids)
	}
}

// TestInterruptedCreateIsTerminated checks that a sandbox that a killed daemon was creating is terminated at the
// next start, and that a retry creates a new one.
func TestInterruptedCreateIsTerminated(t *testing.T) {
	eng := fake.NewEngine()
	defer eng.Close()
	eng.CreateGate = make(chan struct{})
	d := startDaemon(t, filepath.Join(t.TempDir(), "a.db"), eng)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go d.Create(ctx, sandbox.CreateRequest{RequestID: "r", DisplayName: "x"})
	var id sandbox.ID
	waitUntil(t, "the sandbox is being created", func() bool { sb, err := d.Get(ctx, "x"); id = sb.ID; return err == nil && d.eng.Creates() == 1 })
	path := crash(t, d)
	eng.Set(func() { eng.CreateGate = nil })

	next := startDaemon(t, path, eng)
	defer next.stop(t)
	got, err := next.Get(ctx, string(id))
	if err != nil || got.State != sandbox.Terminated || got.Reason != "the daemon stopped while it was being created" {
		t.Errorf("Get() = %+v, %v, want it terminated with the reason", got, err)
	}
	if sb := next.create(t, sandbox.CreateRequest{RequestID: "r", DisplayName: "x"}); sb.ID == id {
		t.Errorf("the retry returned %s, whose creation was interrupted; want a new sandbox", id)
	}
}

// TestCreateWaitsForCapacity checks that a request that needs capacity waits while the only sandbox that could be
// suspended is being created or checkpointed.
func TestCreateWaitsForCapacity(t *testing.T) {
	limited := func(c *manager.Config) { c.MaxSandboxes, c.IdleSuspend, c.CheckpointEvery = 1, time.Hour, time.Second }
	t.Run("during a creation", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := newDaemon(t, limited)
			gate := make(chan struct{})
			d.eng.Set(func() { d.eng.CreateGate = gate })
			first := make(chan error, 1)
			go func() {
				_, err := d.Create(t.Context(), sandbox.CreateRequest{})
				first <- err
			}()
			synctest.Wait()
			time.AfterFunc(300*time.Millisecond, func() { close(gate) })
			if _, err := d.Create(t.Context(), sandbox.CreateRequest{}); err != nil {
				t.Errorf("the second Create() = %v, want no error", err)
			}
			if err := <-first; err != nil {
				t.Errorf("the first Create() = %v, want no error", err)
			}
		})
	})
	t.Run("during a checkpoint", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := newDaemon(t, limited)
			began := make(chan struct{})
			d.eng.Set(func() {
				d.eng.BeforeCheckpoint = func(context.Context) {
					close(began)
					time.Sleep(500 * time.Millisecond)
				}
			})
			d.create(t, sandbox.CreateRequest{})
			<-began
			if _, err := d.Create(t.Context(), sandbox.CreateRequest{}); err != nil {
				t.Errorf("the second Create() = %v, want no error", err)
			}
		})
	})
}
