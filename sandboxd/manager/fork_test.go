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

func (d *daemon) reads(t testing.TB, id sandbox.ID, path, want string) {
	t.Helper()
	body, _, err := d.ReadFile(t.Context(), string(id), path, 0, -1)
	if err != nil {
		t.Errorf("ReadFile(%s) = %v", path, err)
		return
	}
	defer body.Close()
	if data, err := io.ReadAll(body); string(data) != want || err != nil {
		t.Errorf("ReadFile(%s) reads %q, %v, want %q", path, data, err, want)
	}
}

func (d *daemon) writes(t testing.TB, id sandbox.ID, path, text string) {
	t.Helper()
	if _, err := d.WriteFile(t.Context(), string(id), path, strings.NewReader(text)); err != nil {
		t.Errorf("WriteFile(%s) = %v", path, err)
	}
}

// TestFork checks that a fork of a running or suspended sandbox has the variables and files of its original, and
// its own name, expiry and executions.
func TestFork(t *testing.T) {
	for _, asleep := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			d := bubble(t, sleepy)
			ctx := t.Context()
			of := d.create(t, sandbox.CreateRequest{DisplayName: "original", MemoryMB: 512, Language: sandbox.JavaScript})
			d.writes(t, of.ID, "a", "before")
			e := d.run(t, of.ID, "print x", 5)
			want := sandbox.Running
			if asleep {
				wait(idle + 15*time.Second)
				want = sandbox.Suspended
			}
			req := sandbox.CreateRequest{ForkOf: "original", TTL: ttl(time.Hour), DisplayName: "copy", RequestID: "fork"}
			fork := d.create(t, req)
			d.wantState(t, "forked", of.ID, want)
			if fork.ID == of.ID || fork.Language != of.Language || fork.Limits != of.Limits || fork.ExpireTime.Sub(fork.CreateTime) != time.Hour {
				t.Errorf("Create() = %+v, want a copy of %+v that lives for an hour", fork, of)
			}
			if got, err := d.Get(ctx, "copy"); err != nil || got.ForkOf != of.ID || fork.ForkOf != of.ID || of.ForkOf != "" {
				t.Errorf("Get() of the fork = %+v, %v, want fork_of %s", got, err, of.ID)
			}
			if told := d.eng.Expiry(fork.ID); told.Unix() != fork.ExpireTime.Unix() {
				t.Errorf("its guest knows the expiry %v, want %v", told, fork.ExpireTime)
			}
			d.reads(t, fork.ID, "a", "before")
			d.writes(t, fork.ID, "a", "after")
			d.reads(t, of.ID, "a", "before")
			if own := d.run(t, "copy", "print y", 5); own.SandboxID != fork.ID {
				t.Errorf("Execute() in the fork ran in %s", own.SandboxID)
			}
			if err := d.Delete(ctx, "original"); err != nil {
				t.Errorf("Delete() of the original = %v", err)
			}
			if got, err := d.GetExecution(ctx, string(e.ID), 0, sandbox.Window{}); err != nil || got.SandboxID != of.ID || !got.OutputGone {
				t.Errorf("the original's execution = %+v, %v, want it gone with the original", got, err)
			}
			d.reads(t, fork.ID, "a", "after")
			if again := d.create(t, req); again.ID != fork.ID {
				t.Errorf("the retry made %s, want %s", again.ID, fork.ID)
			}
			wait(time.Until(fork.ExpireTime))
			d.wantState(t, "at its expiry", fork.ID, sandbox.Terminated)
		})
	}
}

// TestForkOfABusyOne checks that forking a sandbox that runs code waits a few seconds for the code to end,
// because the code would otherwise run twice. Calls to the original wait for the fork.
func TestForkOfABusyOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := bubble(t, sleepy)
		id := d.create(t, sandbox.CreateRequest{}).ID
		e := d.run(t, id, "sleep 1h", 0)
		_, err := d.Create(t.Context(), sandbox.CreateRequest{ForkOf: string(id)})
		wantError(t, "Create", err, sandbox.Busy, "is running code")
		if _, err := d.Interrupt(t.Context(), string(e.ID)); err != nil {
			t.Fatal(err)
		}
		d.run(t, id, "sleep 2s", 0)
		d.eng.Set(func() { d.eng.BeforeFork = func(context.Context) { time.Sleep(10 * time.Second) } })
		forked := make(chan error, 1)
		go func() {
			_, err := d.Create(t.Context(), sandbox.CreateRequest{ForkOf: string(id)})
			forked <- err
		}()
		wait(4 * time.Second)
		if e := d.run(t, id, "print x", 5); output(e) != "x" {
			t.Errorf("output = %q, want x", output(e))
		}
		if err := <-forked; err != nil {
			t.Errorf("Create() = %v", err)
		}
		for _, id := range d.eng.IDs() {
			if n := d.eng.Guest(id).Executions(); n != 2 && n != 3 {
				t.Errorf("%d executions in %s, want none that ran during the fork", n, id)
			}
		}
	})
}

// TestForkRefused checks that a failed fork reports the reason and leaves no container.
func TestForkRefused(t *testing.T) {
	d := newDaemon(t)
	ctx := t.Context()
	id := string(d.create(t, sandbox.CreateRequest{}).ID)
	_, err := d.Create(ctx, sandbox.CreateRequest{ForkOf: "nobody"})
	wantError(t, "a fork of nobody", err, sandbox.NotFound, "nobody")
	_, err = d.Create(ctx, sandbox.CreateRequest{ForkOf: id, MemoryMB: 4096})
	wantError(t, "a fork with other limits", err, sandbox.Invalid, "memory_mb", "leave them out")
	d.eng.Set(func() { d.eng.FailCreate = errors.New("broken") })
	if _, err = d.Create(ctx, sandbox.CreateRequest{ForkOf: id}); err == nil {
		t.Error("a fork that the engine refuses = nil")
	}
	d.eng.Set(func() { d.eng.FailCreate = nil })
	if e := d.run(t, sandbox.ID(id), "print x", 5); output(e) != "x" {
		t.Errorf("output = %q, want x", output(e))
	}
	if n := len(d.eng.IDs()); n != 1 {
		t.Errorf("%d containers, want 1", n)
	}
	eng := fake.NewEngine()
	defer eng.Close()
	plain := start(t, filepath.Join(t.TempDir(), "a.db"), struct{ engine.Engine }{eng}, func(*manager.Config) {})
	defer plain.stop(t)
	of := plain.create(t, sandbox.CreateRequest{}).ID
	_, err = plain.Create(ctx, sandbox.CreateRequest{ForkOf: string(of)})
	wantError(t, "on an engine that cannot", err, sandbox.Invalid, "test engine", "gvisor")
}

// TestForkLetsUsersDiagnose checks that a fork that waits for its original to become idle does not keep a call from
// finding out that the engine has suspended the original.
func TestForkLetsUsersDiagnose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := bubble(t, sleepy)
		id := d.create(t, sandbox.CreateRequest{}).ID
		d.run(t, id, "sleep 1h", 0)
		forked := make(chan error, 1)
		go func() {
			_, err := d.Create(t.Context(), sandbox.CreateRequest{ForkOf: string(id)})
			forked <- err
		}()
		synctest.Wait()
		if err := d.eng.Suspend(t.Context(), id); err != nil { // without a request from the manager
			t.Fatal(err)
		}
		start := time.Now()
		if _, _, err := d.ListFiles(t.Context(), string(id)); err != nil {
			t.Errorf("ListFiles() = %v", err)
		}
		if took := time.Since(start); took > 2*time.Second { // in the time of the test's clock
			t.Errorf("ListFiles() took %v during a fork", took)
		}
		<-forked
	})
}
