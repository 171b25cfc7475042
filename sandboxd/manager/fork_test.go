package manager_test

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/fake"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// wantFile checks the content of a file.
func (d *daemon) wantFile(t testing.TB, id sandbox.ID, path sandbox.Path, want string) {
	t.Helper()
	body, _, err := d.ReadFile(t.Context(), string(id), path, 0, -1)
	if err != nil {
		t.Errorf("ReadFile(%s) = %v", path, err)
		return
	}
	defer body.Close()
	if data, err := io.ReadAll(body); string(data) != want || err != nil {
		t.Errorf("ReadFile(%s) returns %q, %v, want %q", path, data, err, want)
	}
}

func (d *daemon) writeFile(t testing.TB, id sandbox.ID, path sandbox.Path, text string) {
	t.Helper()
	if _, err := d.WriteFile(t.Context(), string(id), path, strings.NewReader(text)); err != nil {
		t.Errorf("WriteFile(%s) = %v", path, err)
	}
}

// TestForkHasStateOfOriginal checks that a fork of a running or suspended sandbox has the variables and files of
// its original, and its own name, expiry and executions.
func TestForkHasStateOfOriginal(t *testing.T) {
	for _, suspended := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			d := newDaemon(t, withSuspend)
			ctx := t.Context()
			original := d.create(t, sandbox.CreateRequest{DisplayName: "original", MemoryMB: 512, Language: sandbox.JavaScript})
			d.writeFile(t, original.ID, "a", "before")
			e := d.execute(t, original.ID, "print x", 5)
			want := sandbox.Running
			if suspended {
				advance(idleSuspend + 15*time.Second)
				want = sandbox.Suspended
			}
			req := sandbox.CreateRequest{ForkOf: "original", TTL: ttl(time.Hour), DisplayName: "fork", RequestID: "fork"}
			fork := d.create(t, req)
			d.wantState(t, "after the fork", original.ID, want)
			if fork.ID == original.ID || fork.Language != original.Language || fork.Limits != original.Limits || fork.ExpireTime.Sub(fork.CreateTime) != time.Hour {
				t.Errorf("Create() = %+v, want a fork of %+v with a TTL of an hour", fork, original)
			}
			if got, err := d.Get(ctx, "fork"); err != nil || got.ForkOf != original.ID || fork.ForkOf != original.ID || original.ForkOf != "" {
				t.Errorf("Get() of the fork = %+v, %v, want fork_of %s", got, err, original.ID)
			}
			if expiry := d.eng.Expiry(fork.ID); expiry.Unix() != fork.ExpireTime.Unix() {
				t.Errorf("the expiry of the fork's guest is %v, want %v", expiry, fork.ExpireTime)
			}
			d.wantFile(t, fork.ID, "a", "before")
			d.writeFile(t, fork.ID, "a", "after")
			d.wantFile(t, original.ID, "a", "before")
			if own := d.execute(t, "fork", "print y", 5); own.SandboxID != fork.ID {
				t.Errorf("Execute() in the fork ran in %s, want %s", own.SandboxID, fork.ID)
			}
			if err := d.Delete(ctx, "original"); err != nil {
				t.Errorf("Delete() of the original = %v", err)
			}
			if got, err := d.GetExecution(ctx, string(e.ID), 0, sandbox.Window{}); err != nil || got.SandboxID != original.ID || !got.OutputGone {
				t.Errorf("the original's execution = %+v, %v, want it without output, because the original was deleted", got, err)
			}
			d.wantFile(t, fork.ID, "a", "after")
			if again := d.create(t, req); again.ID != fork.ID {
				t.Errorf("the retry returned %s, want %s", again.ID, fork.ID)
			}
			advance(time.Until(fork.ExpireTime))
			d.wantState(t, "at its expiry", fork.ID, sandbox.Terminated)
		})
	}
}

// TestForkWaitsForRunningCode checks that forking a sandbox that runs code waits a few seconds for the code to end,
// because the code would otherwise run twice. Calls to the original wait for the fork.
func TestForkWaitsForRunningCode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon(t, withSuspend)
		id := d.create(t, sandbox.CreateRequest{}).ID
		e := d.execute(t, id, "sleep 1h", 0)
		_, err := d.Create(t.Context(), sandbox.CreateRequest{ForkOf: string(id)})
		wantError(t, "Create", err, sandbox.Busy, "is running code")
		if _, err := d.Interrupt(t.Context(), string(e.ID)); err != nil {
			t.Fatal(err)
		}
		d.execute(t, id, "sleep 2s", 0)
		d.eng.Set(func() { d.eng.BeforeFork = func(context.Context) { time.Sleep(10 * time.Second) } })
		forked := make(chan error, 1)
		go func() {
			_, err := d.Create(t.Context(), sandbox.CreateRequest{ForkOf: string(id)})
			forked <- err
		}()
		advance(4 * time.Second)
		if e := d.execute(t, id, "print x", 5); output(e) != "x" {
			t.Errorf("output = %q, want x", output(e))
		}
		if err := <-forked; err != nil {
			t.Errorf("Create() = %v", err)
		}
		for _, id := range d.eng.IDs() {
			if n := d.eng.Guest(id).Executions(); n != 2 && n != 3 {
				t.Errorf("%s has %d executions, want 2 or 3: none may start during the fork", id, n)
			}
		}
	})
}

// TestFailedForkLeavesNothing checks that a failed fork reports the reason and leaves no container.
func TestFailedForkLeavesNothing(t *testing.T) {
	d := newDaemon(t)
	ctx := t.Context()
	id := string(d.create(t, sandbox.CreateRequest{}).ID)
	_, err := d.Create(ctx, sandbox.CreateRequest{ForkOf: "unknown"})
	wantError(t, "Create as a fork of an unknown sandbox", err, sandbox.NotFound, "unknown")
	d.eng.Set(func() { d.eng.FailCreate = errors.New("broken") })
	if _, err = d.Create(ctx, sandbox.CreateRequest{ForkOf: id}); err == nil {
		t.Error("Create() = nil although the engine cannot fork, want an error")
	}
	d.eng.Set(func() { d.eng.FailCreate = nil })
	if e := d.execute(t, sandbox.ID(id), "print x", 5); output(e) != "x" {
		t.Errorf("output = %q, want x", output(e))
	}
	if n := len(d.eng.IDs()); n != 1 {
		t.Errorf("%d containers, want 1", n)
	}
	eng := fake.NewEngine()
	defer eng.Close()
	plain := startDaemon(t, filepath.Join(t.TempDir(), "a.db"), struct{ engine.Engine }{eng}, func(*manager.Config) {})
	defer plain.stop(t)
	original := plain.create(t, sandbox.CreateRequest{}).ID
	_, err = plain.Create(ctx, sandbox.CreateRequest{ForkOf: string(original)})
	wantError(t, "Create on an engine that does not support forks", err, sandbox.Invalid, "test engine", "gvisor")
}

// TestCallDetectsSuspendDuringFork checks that a call detects that the engine has suspended a sandbox, even if a fork
// waits for that sandbox to become idle at the same time.
func TestCallDetectsSuspendDuringFork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon(t, withSuspend)
		id := d.create(t, sandbox.CreateRequest{}).ID
		d.execute(t, id, "sleep 1h", 0)
		forked := make(chan error, 1)
		go func() {
			_, err := d.Create(t.Context(), sandbox.CreateRequest{ForkOf: string(id)})
			forked <- err
		}()
		synctest.Wait()
		if err := d.eng.Suspend(t.Context(), id); err != nil { // the engine suspends the sandbox without a request from the manager
			t.Fatal(err)
		}
		start := time.Now()
		if _, _, err := d.ListFiles(t.Context(), string(id)); err != nil {
			t.Errorf("ListFiles() = %v, want no error", err)
		}
		if took := time.Since(start); took > 2*time.Second { // took is measured with the fake clock of synctest
			t.Errorf("ListFiles() took %v during a fork, want at most 2s", took)
		}
		<-forked
	})
}
