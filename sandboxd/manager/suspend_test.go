package manager_test

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/fake"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

const idleSuspend = 5 * time.Minute

// withSuspend turns suspend on.
func withSuspend(c *manager.Config) { c.IdleSuspend = idleSuspend }

// wantState checks the state of a sandbox, both in the answer of Get and on disk.
func (d *daemon) wantState(t testing.TB, when string, id sandbox.ID, want sandbox.State) {
	t.Helper()
	got, err := d.Get(t.Context(), string(id))
	if err != nil || got.State != want || (got.Usage != nil) != (want == sandbox.Running) {
		t.Errorf("%s: Get() = %+v, %v, want the state %s, with usage only if running", when, got, err, want)
	}
	if rec, err := d.store.Sandbox(t.Context(), id); err != nil || rec.State != want {
		t.Errorf("%s: the recorded state is %s, %v, want %s", when, rec.State, err, want)
	}
}

// advance moves the time forward by d and then waits until all goroutines of the bubble are blocked.
func advance(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// createSuspended creates a sandbox, runs code in it and waits until the sandbox is suspended.
func (d *daemon) createSuspended(t testing.TB, req sandbox.CreateRequest) (sandbox.Sandbox, sandbox.Execution) {
	t.Helper()
	sb := d.create(t, req)
	e := d.execute(t, sb.ID, "print before", 5)
	advance(idleSuspend + 15*time.Second)
	d.wantState(t, "after idleSuspend", sb.ID, sandbox.Suspended)
	return sb, e
}

// TestIdleSandboxIsSuspendedAndResumed checks that an idle sandbox is suspended. Reading its status does not
// resume it, but each call that needs its guest resumes it.
func TestIdleSandboxIsSuspendedAndResumed(t *testing.T) {
	for name, call := range map[string]func(*testing.T, *daemon, sandbox.Sandbox, sandbox.Execution){
		"execute": func(t *testing.T, d *daemon, sb sandbox.Sandbox, _ sandbox.Execution) {
			if e := d.execute(t, sb.ID, "print again", 5); output(e) != "again" {
				t.Errorf("output = %q, want again", output(e))
			}
		},
		"output": func(t *testing.T, d *daemon, _ sandbox.Sandbox, e sandbox.Execution) {
			if got, err := d.GetExecution(t.Context(), string(e.ID), 0, sandbox.Window{}); err != nil || output(got) != "before" {
				t.Errorf("GetExecution() = %+v, %v, want its output", got, err)
			}
		},
		"follow": func(t *testing.T, d *daemon, _ sandbox.Sandbox, e sandbox.Execution) {
			if err := d.FollowExecution(t.Context(), string(e.ID), 0, func(sandbox.Event) error { return nil }); err != nil {
				t.Errorf("FollowExecution() = %v", err)
			}
		},
		"list files": func(t *testing.T, d *daemon, sb sandbox.Sandbox, _ sandbox.Execution) {
			if _, _, err := d.ListFiles(t.Context(), string(sb.ID)); err != nil {
				t.Errorf("ListFiles() = %v", err)
			}
		},
		"write": func(t *testing.T, d *daemon, sb sandbox.Sandbox, _ sandbox.Execution) {
			if _, err := d.WriteFile(t.Context(), string(sb.ID), "a", strings.NewReader("x")); err != nil {
				t.Errorf("WriteFile() = %v", err)
			}
		},
		"interrupt": func(t *testing.T, d *daemon, _ sandbox.Sandbox, e sandbox.Execution) {
			if _, err := d.Interrupt(t.Context(), string(e.ID)); err != nil {
				t.Errorf("Interrupt() = %v", err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDaemon(t, withSuspend)
				sb, e := d.createSuspended(t, sandbox.CreateRequest{DisplayName: "x"})
				page, err := d.List(t.Context(), sandbox.ListRequest{State: sandbox.Suspended})
				if err != nil || len(page.Sandboxes) != 1 {
					t.Errorf("List(suspended) = %+v, %v, want it", page, err)
				}
				long, err := d.Update(t.Context(), "x", sandbox.UpdateRequest{TTL: new(ttl(48 * time.Hour))})
				if err != nil || long.State != sandbox.Suspended {
					t.Errorf("Update() = %+v, %v, want it still suspended", long, err)
				}
				advance(time.Minute) // longer than sweepEvery, so that reconcile runs
				if _, n := d.eng.Suspends(); n != 0 {
					t.Errorf("%d resumes after calls that need no guest, want none", n)
				}
				call(t, d, sb, e)
				d.wantState(t, "after the call", sb.ID, sandbox.Running)
				if d.eng.Expiry(sb.ID).Unix() != long.ExpireTime.Unix() {
					t.Errorf("the guest's expiry is %v, want %v", d.eng.Expiry(sb.ID), long.ExpireTime)
				}
				advance(idleSuspend + 15*time.Second)
				d.wantState(t, "after idleSuspend again", sb.ID, sandbox.Suspended)
				if suspends, resumes := d.eng.Suspends(); suspends != 2 || resumes != 1 {
					t.Errorf("suspended %d and resumed %d times, want 2 and 1", suspends, resumes)
				}
			})
		})
	}
}

// TestBusySandboxIsNotSuspended checks that a sandbox is not idle while code runs or is queued, or while a file is
// read.
func TestBusySandboxIsNotSuspended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon(t, withSuspend)
		id := d.create(t, sandbox.CreateRequest{}).ID
		d.execute(t, id, "sleep 30m", 0)
		advance(29 * time.Minute)
		d.wantState(t, "while code runs", id, sandbox.Running)
		advance(5 * time.Minute)
		d.wantState(t, "shortly after the code ended", id, sandbox.Running)
		advance(2 * time.Minute)
		d.wantState(t, "after idleSuspend", id, sandbox.Suspended)
		if _, err := d.WriteFile(t.Context(), string(id), "a", strings.NewReader("0123456789")); err != nil {
			t.Fatal(err)
		}
		body, _, err := d.ReadFile(t.Context(), string(id), "a", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		advance(2 * idleSuspend)
		d.wantState(t, "while a file is read", id, sandbox.Running)
		if data, err := io.ReadAll(body); string(data) != "0123456789" || err != nil {
			t.Errorf("ReadFile() returns %q, %v, want 0123456789", data, err)
		}
		body.Close()
		for range 10 { // reading the status must not count as use, so the sandbox remains idle
			d.wantState(t, "after its status was read", id, sandbox.Running)
			advance(idleSuspend / 11)
		}
		advance(idleSuspend/11 + 15*time.Second)
		d.wantState(t, "after the file was read", id, sandbox.Suspended)
	})
}

// TestSandboxIsNotSuspendedWithoutSupport checks that sandboxes are never suspended if IdleSuspend is zero, or if
// the engine cannot suspend.
func TestSandboxIsNotSuspendedWithoutSupport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon(t)
		id := d.create(t, sandbox.CreateRequest{}).ID
		eng := fake.NewEngine()
		defer eng.Close()
		plain := startDaemon(t, filepath.Join(t.TempDir(), "a.db"), struct{ engine.Engine }{eng}, withSuspend)
		defer plain.stop(t)
		other := plain.create(t, sandbox.CreateRequest{}).ID
		advance(time.Hour)
		d.wantState(t, "without --idle-suspend", id, sandbox.Running)
		plain.wantState(t, "on an engine that cannot suspend", other, sandbox.Running)
	})
}

// TestConcurrentCallsResumeOnce checks that many concurrent calls resume a suspended sandbox only once, and that
// all get their answer. The calls are made either after the sandbox was suspended or while it is being suspended.
func TestConcurrentCallsResumeOnce(t *testing.T) {
	for _, when := range []string{"suspended", "suspending"} {
		t.Run(when, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDaemon(t, withSuspend)
				slow := func(context.Context) { time.Sleep(10 * time.Second) }
				d.eng.Set(func() { d.eng.BeforeResume = slow })
				var id sandbox.ID
				before := 0
				if when == "suspended" {
					sb, _ := d.createSuspended(t, sandbox.CreateRequest{})
					id, before = sb.ID, 1
				} else {
					d.eng.Set(func() { d.eng.BeforeSuspend = slow })
					id = d.create(t, sandbox.CreateRequest{}).ID
					for n := 0; n == 0; n, _ = d.eng.Suspends() {
						advance(time.Second)
					}
				}
				var calls sync.WaitGroup
				for range 20 {
					calls.Go(func() {
						if e := d.execute(t, id, "print x", 5); output(e) != "x" {
							t.Errorf("output = %q, want x", output(e))
						}
					})
				}
				limited, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if _, err := d.Execute(limited, string(id), sandbox.ExecuteRequest{Code: "print y"}); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Execute() with a deadline of 1s = %v, want context.DeadlineExceeded", err)
				}
				calls.Wait()
				if _, n := d.eng.Suspends(); n != 1 {
					t.Errorf("%d resumes, want 1", n)
				}
				d.wantState(t, "after the calls", id, sandbox.Running)
				if n := d.eng.Guest(id).Executions() - before; n != 20 {
					t.Errorf("the guest received %d executions, want 20", n)
				}
			})
		})
	}
}

// TestFailedSuspendIsRetried checks that a sandbox keeps running after a failed suspend, even if the engine
// suspended the sandbox and then returned an error. The suspend is tried again later.
func TestFailedSuspendIsRetried(t *testing.T) {
	for _, despiteError := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			d := newDaemon(t, withSuspend)
			id := d.create(t, sandbox.CreateRequest{}).ID
			d.eng.Set(func() {
				d.eng.FailSuspend, d.eng.SuspendDespiteError = errors.New("no space left on device"), despiteError
			})
			advance(idleSuspend + 15*time.Second)
			d.wantState(t, "after a failed suspend", id, sandbox.Running)
			advance(time.Hour)
			if n, _ := d.eng.Suspends(); n < 3 || n > 8 {
				t.Errorf("%d suspends were tried in an hour, want 3 to 8", n)
			}
			d.eng.Set(func() { d.eng.FailSuspend = nil })
			if e := d.execute(t, id, "print x", 5); output(e) != "x" {
				t.Errorf("output = %q, want x", output(e))
			}
			advance(time.Hour)
			d.wantState(t, "when suspends succeed again", id, sandbox.Suspended)
		})
	}
}

// TestFailedResumeLeavesSandboxSuspended checks that a failed resume reports the reason, and that the sandbox
// remains suspended.
func TestFailedResumeLeavesSandboxSuspended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon(t, withSuspend)
		sb, e := d.createSuspended(t, sandbox.CreateRequest{})
		d.eng.Set(func() {
			d.eng.FailResume = sandbox.Errorf(sandbox.Unavailable, "the machine has no memory left")
			d.eng.BeforeResume = func(context.Context) { time.Sleep(time.Second) }
		})
		var calls sync.WaitGroup
		for range 5 {
			calls.Go(func() {
				_, err := d.Execute(t.Context(), string(sb.ID), sandbox.ExecuteRequest{Code: "print x", RequestID: "retry"})
				wantError(t, "Execute", err, sandbox.Unavailable, "could not be resumed", "nothing of it is lost", "no memory left")
			})
		}
		calls.Wait()
		if _, n := d.eng.Suspends(); n != 1 {
			t.Errorf("%d resumes for five calls, want 1", n)
		}
		d.wantState(t, "after a failed resume", sb.ID, sandbox.Suspended)
		d.eng.Set(func() { d.eng.FailResume = fake.ErrDown })
		_, err := d.GetExecution(t.Context(), string(e.ID), 0, sandbox.Window{})
		wantError(t, "GetExecution", err, sandbox.Unavailable, "could not be resumed")
		d.eng.Set(func() { d.eng.FailResume = nil })
		got, err := d.Execute(t.Context(), string(sb.ID), sandbox.ExecuteRequest{Code: "print x", RequestID: "retry", WaitSeconds: 5})
		if err != nil || output(got) != "x" {
			t.Errorf("Execute() when resumes succeed again = %+v, %v, want x", got, err)
		}
	})
}

// TestUnresumableSandboxIsTerminated checks that a sandbox that can never be resumed is terminated with the reason.
func TestUnresumableSandboxIsTerminated(t *testing.T) {
	for name, tt := range map[string]struct {
		damage func(*fake.Engine, sandbox.ID)
		reason string
	}{
		"damaged checkpoint": {func(e *fake.Engine, _ sandbox.ID) {
			e.Set(func() { e.FailResume = sandbox.Errorf(sandbox.Expired, "its saved memory is damaged") })
		}, "its saved memory is damaged"},
		"removed container": {(*fake.Engine).Lose, "no longer exists"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDaemon(t, withSuspend)
				sb, _ := d.createSuspended(t, sandbox.CreateRequest{})
				tt.damage(d.eng, sb.ID)
				_, err := d.Execute(t.Context(), string(sb.ID), sandbox.ExecuteRequest{Code: "print x"})
				wantError(t, "Execute", err, sandbox.Expired, tt.reason, "Create a new one")
				d.wantState(t, "after the call", sb.ID, sandbox.Terminated)
				synctest.Wait()
				if ids := d.eng.IDs(); len(ids) != 0 {
					t.Errorf("containers = %v, want none", ids)
				}
			})
		})
	}
}

// TestSuspendedSandboxExpires checks that a suspended sandbox expires and that its container is removed without being
// resumed.
func TestSuspendedSandboxExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon(t, withSuspend)
		sb, _ := d.createSuspended(t, sandbox.CreateRequest{TTL: ttl(time.Hour)})
		advance(time.Until(sb.ExpireTime))
		d.wantState(t, "at its expiry", sb.ID, sandbox.Terminated)
		_, err := d.Execute(t.Context(), string(sb.ID), sandbox.ExecuteRequest{Code: "print x"})
		wantError(t, "Execute", err, sandbox.Expired, "TTL ended")
		if _, n := d.eng.Suspends(); n != 0 || len(d.eng.IDs()) != 0 {
			t.Errorf("%d resumes, and the containers %v; want no resume and no container", n, d.eng.IDs())
		}
	})
}

// TestSuspendedSandboxCanBeDeleted checks that a suspended sandbox can be deleted without being resumed. A sandbox
// that is being resumed is deleted after the resume, and the call that waits for the resume gets an answer.
func TestSuspendedSandboxCanBeDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon(t, withSuspend)
		sb, _ := d.createSuspended(t, sandbox.CreateRequest{})
		if err := d.Delete(t.Context(), string(sb.ID)); err != nil {
			t.Errorf("Delete() = %v", err)
		}
		if _, n := d.eng.Suspends(); n != 0 {
			t.Errorf("%d resumes to delete the sandbox, want none", n)
		}
		sb, _ = d.createSuspended(t, sandbox.CreateRequest{})
		d.eng.Set(func() { d.eng.BeforeResume = func(context.Context) { time.Sleep(10 * time.Second) } })
		answer := make(chan error, 1)
		go func() {
			_, err := d.Execute(t.Context(), string(sb.ID), sandbox.ExecuteRequest{Code: "sleep 1h", WaitSeconds: 60})
			answer <- err
		}()
		advance(time.Second)
		if err := d.Delete(t.Context(), string(sb.ID)); err != nil {
			t.Errorf("Delete() during resume = %v", err)
		}
		if err := <-answer; err != nil { // nil means that the execution was accepted before the deletion, and is lost
			wantError(t, "Execute", err, sandbox.NotFound, "deleted")
		}
		if ids := d.eng.IDs(); len(ids) != 0 {
			t.Errorf("containers = %v, want none", ids)
		}
	})
}

// TestRestartResumesNoSandbox checks that starting a daemon does not resume suspended sandboxes, even if the previous
// daemon was killed after the engine had suspended or resumed a sandbox and before the record was changed. The
// new daemon can use all of these sandboxes.
func TestRestartResumesNoSandbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eng := fake.NewEngine()
		defer eng.Close()
		ctx := t.Context()
		d := startDaemon(t, filepath.Join(t.TempDir(), "a.db"), eng, withSuspend)
		suspended, e := d.createSuspended(t, sandbox.CreateRequest{})
		suspending := d.create(t, sandbox.CreateRequest{}).ID // the engine suspends this sandbox below, but its record remains running
		_, resumed := d.execute(t, suspending, "print x", 5), d.create(t, sandbox.CreateRequest{}).ID
		// The opposite case: the record of this sandbox is suspended, but its container runs.
		if err := d.store.SetState(resumed, sandbox.Suspended); err != nil {
			t.Fatal(err)
		}
		path := crash(t, d)
		if err := eng.Suspend(ctx, suspending); err != nil {
			t.Fatal(err)
		}
		next := startDaemon(t, path, eng, withSuspend)
		defer next.stop(t)
		advance(2 * time.Minute)
		next.wantState(t, "after a restart", suspended.ID, sandbox.Suspended)
		next.wantState(t, "suspended at the time of the crash", suspending, sandbox.Suspended)
		next.wantState(t, "resumed at the time of the crash", resumed, sandbox.Running)
		if _, n := eng.Suspends(); n != 0 {
			t.Errorf("%d resumes after a restart, want none", n)
		}
		if got, err := next.GetExecution(ctx, string(e.ID), 0, sandbox.Window{}); err != nil || output(got) != "before" {
			t.Errorf("GetExecution() = %+v, %v, want its output", got, err)
		}
		for _, id := range []sandbox.ID{suspended.ID, suspending, resumed} {
			if e := next.execute(t, id, "print x", 5); output(e) != "x" {
				t.Errorf("output = %q, want x", output(e))
			}
		}
	})
}
