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

const idle = 5 * time.Minute

func sleepy(c *manager.Config) { c.IdleSuspend = idle }

// wantState checks the state of a sandbox, both in the answer of Get and on disk.
func (d *daemon) wantState(t testing.TB, when string, id sandbox.ID, want sandbox.State) {
	t.Helper()
	got, err := d.Get(t.Context(), string(id))
	if err != nil || got.State != want || (got.Usage != nil) != (want == sandbox.Running) {
		t.Errorf("%s: Get() = %+v, %v, want it %s", when, got, err, want)
	}
	if rec, err := d.store.Sandbox(t.Context(), id); err != nil || rec.State != want {
		t.Errorf("%s: on disk it is %s, %v, want %s", when, rec.State, err, want)
	}
}

// wait advances the time by d and then waits until all goroutines of the bubble are blocked.
func wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// asleep creates a sandbox, runs code in it and waits until the sandbox is suspended.
func (d *daemon) asleep(t testing.TB, req sandbox.CreateRequest) (sandbox.Sandbox, sandbox.Execution) {
	t.Helper()
	sb := d.create(t, req)
	e := d.run(t, sb.ID, "print before", 5)
	wait(idle + 15*time.Second)
	d.wantState(t, "left alone", sb.ID, sandbox.Suspended)
	return sb, e
}

// TestSuspendsAndResumes checks that an idle sandbox is suspended. Reading its status does not resume it, but
// each call that needs its guest resumes it.
func TestSuspendsAndResumes(t *testing.T) {
	for name, call := range map[string]func(*testing.T, *daemon, sandbox.Sandbox, sandbox.Execution){
		"execute": func(t *testing.T, d *daemon, sb sandbox.Sandbox, _ sandbox.Execution) {
			if e := d.run(t, sb.ID, "print again", 5); output(e) != "again" {
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
				d := bubble(t, sleepy)
				sb, e := d.asleep(t, sandbox.CreateRequest{DisplayName: "x"})
				page, err := d.List(t.Context(), sandbox.ListRequest{State: sandbox.Suspended})
				if err != nil || len(page.Sandboxes) != 1 {
					t.Errorf("List(suspended) = %+v, %v, want it", page, err)
				}
				long, err := d.Update(t.Context(), "x", sandbox.UpdateRequest{TTL: new(ttl(48 * time.Hour))})
				if err != nil || long.State != sandbox.Suspended {
					t.Errorf("Update() = %+v, %v, want it asleep still", long, err)
				}
				wait(time.Minute) // longer than sweepEvery, so that reconcile runs
				if _, n := d.eng.Suspends(); n != 0 {
					t.Errorf("it was resumed %d times by looking, want never", n)
				}
				call(t, d, sb, e)
				d.wantState(t, "called", sb.ID, sandbox.Running)
				if d.eng.Expiry(sb.ID).Unix() != long.ExpireTime.Unix() {
					t.Errorf("its guest knows the expiry %v, want %v", d.eng.Expiry(sb.ID), long.ExpireTime)
				}
				wait(idle + 15*time.Second)
				d.wantState(t, "left alone again", sb.ID, sandbox.Suspended)
				if suspends, resumes := d.eng.Suspends(); suspends != 2 || resumes != 1 {
					t.Errorf("suspended %d and resumed %d times, want 2 and 1", suspends, resumes)
				}
			})
		})
	}
}

// TestBusyIsNotSuspended checks that a sandbox is not idle while code runs or is queued, or while a file is
// read.
func TestBusyIsNotSuspended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := bubble(t, sleepy)
		id := d.create(t, sandbox.CreateRequest{}).ID
		d.run(t, id, "sleep 30m", 0)
		wait(29 * time.Minute)
		d.wantState(t, "while code runs", id, sandbox.Running)
		wait(5 * time.Minute)
		d.wantState(t, "soon after it ended", id, sandbox.Running)
		wait(2 * time.Minute)
		d.wantState(t, "later", id, sandbox.Suspended)
		if _, err := d.WriteFile(t.Context(), string(id), "a", strings.NewReader("0123456789")); err != nil {
			t.Fatal(err)
		}
		body, _, err := d.ReadFile(t.Context(), string(id), "a", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		wait(2 * idle)
		d.wantState(t, "while a file is read", id, sandbox.Running)
		if data, err := io.ReadAll(body); string(data) != "0123456789" || err != nil {
			t.Errorf("it reads %q, %v", data, err)
		}
		body.Close()
		for range 10 { // reading the status must not count as use, so the sandbox remains idle
			d.wantState(t, "looked at", id, sandbox.Running)
			wait(idle / 11)
		}
		wait(idle/11 + 15*time.Second)
		d.wantState(t, "after it was read", id, sandbox.Suspended)
	})
}

// TestNeverSuspended checks that sandboxes are never suspended if IdleSuspend is zero, or if the engine cannot
// suspend.
func TestNeverSuspended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := bubble(t)
		id := d.create(t, sandbox.CreateRequest{}).ID
		eng := fake.NewEngine()
		defer eng.Close()
		plain := start(t, filepath.Join(t.TempDir(), "a.db"), struct{ engine.Engine }{eng}, sleepy)
		defer plain.stop(t)
		other := plain.create(t, sandbox.CreateRequest{}).ID
		wait(time.Hour)
		d.wantState(t, "without --idle-suspend", id, sandbox.Running)
		plain.wantState(t, "on an engine that cannot", other, sandbox.Running)
	})
}

// TestResumedOnce checks that many concurrent calls resume a suspended sandbox only once, and that all get their
// answer. The calls are made either after the sandbox was suspended or while it is being suspended.
func TestResumedOnce(t *testing.T) {
	for _, when := range []string{"asleep", "going to sleep"} {
		t.Run(when, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := bubble(t, sleepy)
				slow := func(context.Context) { time.Sleep(10 * time.Second) }
				d.eng.Set(func() { d.eng.BeforeResume = slow })
				var id sandbox.ID
				ran := 0
				if when == "asleep" {
					sb, _ := d.asleep(t, sandbox.CreateRequest{})
					id, ran = sb.ID, 1
				} else {
					d.eng.Set(func() { d.eng.BeforeSuspend = slow })
					id = d.create(t, sandbox.CreateRequest{}).ID
					for n := 0; n == 0; n, _ = d.eng.Suspends() {
						wait(time.Second)
					}
				}
				var calls sync.WaitGroup
				for range 20 {
					calls.Go(func() {
						if e := d.run(t, id, "print x", 5); output(e) != "x" {
							t.Errorf("output = %q, want x", output(e))
						}
					})
				}
				impatient, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if _, err := d.Execute(impatient, string(id), sandbox.ExecuteRequest{Code: "print y"}); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Execute() of one who gives up = %v", err)
				}
				calls.Wait()
				if _, n := d.eng.Suspends(); n != 1 {
					t.Errorf("it was resumed %d times, want once", n)
				}
				d.wantState(t, "after that", id, sandbox.Running)
				if n := d.eng.Guest(id).Executions() - ran; n != 20 {
					t.Errorf("%d executions ran, want 20", n)
				}
			})
		})
	}
}

// TestSuspendFails checks that a sandbox keeps running after a failed suspend, even if the engine had suspended
// it before it returned the error. The suspend is tried again later.
func TestSuspendFails(t *testing.T) {
	for _, after := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			d := bubble(t, sleepy)
			id := d.create(t, sandbox.CreateRequest{}).ID
			d.eng.Set(func() { d.eng.FailSuspend, d.eng.SuspendAnyway = errors.New("no space left on device"), after })
			wait(idle + 15*time.Second)
			d.wantState(t, "after a failed suspend", id, sandbox.Running)
			wait(time.Hour)
			if n, _ := d.eng.Suspends(); n < 3 || n > 8 {
				t.Errorf("tried %d times in an hour, want a few", n)
			}
			d.eng.Set(func() { d.eng.FailSuspend = nil })
			if e := d.run(t, id, "print x", 5); output(e) != "x" {
				t.Errorf("output = %q, want x", output(e))
			}
			wait(time.Hour)
			d.wantState(t, "when it works again", id, sandbox.Suspended)
		})
	}
}

// TestResumeFails checks that a failed resume reports the reason, and that the sandbox remains suspended.
func TestResumeFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := bubble(t, sleepy)
		sb, e := d.asleep(t, sandbox.CreateRequest{})
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
			t.Errorf("tried %d times for five calls, want once", n)
		}
		d.wantState(t, "after a failed resume", sb.ID, sandbox.Suspended)
		d.eng.Set(func() { d.eng.FailResume = fake.ErrDown })
		_, err := d.GetExecution(t.Context(), string(e.ID), 0, sandbox.Window{})
		wantError(t, "GetExecution", err, sandbox.Unavailable, "could not be resumed")
		d.eng.Set(func() { d.eng.FailResume = nil })
		got, err := d.Execute(t.Context(), string(sb.ID), sandbox.ExecuteRequest{Code: "print x", RequestID: "retry", WaitSeconds: 5})
		if err != nil || output(got) != "x" {
			t.Errorf("Execute() when it works again = %+v, %v", got, err)
		}
	})
}

// TestNeverResumed checks that a sandbox that can never be resumed is terminated with the reason.
func TestNeverResumed(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(*fake.Engine, sandbox.ID)
		why   string
	}{
		"lost": {func(e *fake.Engine, _ sandbox.ID) {
			e.Set(func() { e.FailResume = sandbox.Errorf(sandbox.Expired, "its saved memory is damaged") })
		}, "its saved memory is damaged"},
		"removed": {(*fake.Engine).Lose, "no longer exists"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := bubble(t, sleepy)
				sb, _ := d.asleep(t, sandbox.CreateRequest{})
				tt.spoil(d.eng, sb.ID)
				_, err := d.Execute(t.Context(), string(sb.ID), sandbox.ExecuteRequest{Code: "print x"})
				wantError(t, "Execute", err, sandbox.Expired, tt.why, "Create a new one")
				d.wantState(t, "after that", sb.ID, sandbox.Terminated)
				synctest.Wait()
				if ids := d.eng.IDs(); len(ids) != 0 {
					t.Errorf("containers = %v, want none", ids)
				}
			})
		})
	}
}

// TestExpiresAsleep checks that a suspended sandbox expires and that its container is removed without being
// resumed.
func TestExpiresAsleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := bubble(t, sleepy)
		sb, _ := d.asleep(t, sandbox.CreateRequest{TTL: ttl(time.Hour)})
		wait(time.Until(sb.ExpireTime))
		d.wantState(t, "when its time is over", sb.ID, sandbox.Terminated)
		_, err := d.Execute(t.Context(), string(sb.ID), sandbox.ExecuteRequest{Code: "print x"})
		wantError(t, "Execute", err, sandbox.Expired, "TTL ended")
		if _, n := d.eng.Suspends(); n != 0 || len(d.eng.IDs()) != 0 {
			t.Errorf("resumed %d times, containers %v, want neither", n, d.eng.IDs())
		}
	})
}

// TestDeleteAsleep checks that a suspended sandbox can be deleted without being resumed. A sandbox that is being
// resumed is deleted after the resume, and the call that waits for the resume gets an answer.
func TestDeleteAsleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := bubble(t, sleepy)
		sb, _ := d.asleep(t, sandbox.CreateRequest{})
		if err := d.Delete(t.Context(), string(sb.ID)); err != nil {
			t.Errorf("Delete() = %v", err)
		}
		if _, n := d.eng.Suspends(); n != 0 {
			t.Errorf("resumed %d times to be deleted", n)
		}
		sb, _ = d.asleep(t, sandbox.CreateRequest{})
		d.eng.Set(func() { d.eng.BeforeResume = func(context.Context) { time.Sleep(10 * time.Second) } })
		answer := make(chan error, 1)
		go func() {
			_, err := d.Execute(t.Context(), string(sb.ID), sandbox.ExecuteRequest{Code: "sleep 1h", WaitSeconds: 60})
			answer <- err
		}()
		wait(time.Second)
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

// TestRestartAsleep checks that starting a daemon does not resume suspended sandboxes, even if the previous
// daemon was killed after the engine had suspended or resumed a sandbox and before the record was changed. The
// new daemon can use all of these sandboxes.
func TestRestartAsleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eng := fake.NewEngine()
		defer eng.Close()
		ctx := t.Context()
		d := start(t, filepath.Join(t.TempDir(), "a.db"), eng, sleepy)
		asleep, e := d.asleep(t, sandbox.CreateRequest{})
		fell := d.create(t, sandbox.CreateRequest{}).ID // the engine suspends this sandbox below, but its record remains running
		_, resumed := d.run(t, fell, "print x", 5), d.create(t, sandbox.CreateRequest{}).ID
		// In the opposite case, the record is suspended, but the container runs.
		if err := d.store.SetState(resumed, sandbox.Suspended); err != nil {
			t.Fatal(err)
		}
		path := crash(t, d)
		if err := eng.Suspend(ctx, fell); err != nil {
			t.Fatal(err)
		}
		next := start(t, path, eng, sleepy)
		defer next.stop(t)
		wait(2 * time.Minute)
		next.wantState(t, "after a restart", asleep.ID, sandbox.Suspended)
		next.wantState(t, "suspended in the moment of the crash", fell, sandbox.Suspended)
		next.wantState(t, "resumed in the moment of the crash", resumed, sandbox.Running)
		if _, n := eng.Suspends(); n != 0 {
			t.Errorf("%d were resumed by a restart, want none", n)
		}
		if got, err := next.GetExecution(ctx, string(e.ID), 0, sandbox.Window{}); err != nil || output(got) != "before" {
			t.Errorf("GetExecution() = %+v, %v, want its output", got, err)
		}
		for _, id := range []sandbox.ID{asleep.ID, fell, resumed} {
			if e := next.run(t, id, "print x", 5); output(e) != "x" {
				t.Errorf("output = %q, want x", output(e))
			}
		}
	})
}
