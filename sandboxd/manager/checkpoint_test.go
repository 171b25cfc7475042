package manager_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/fake"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

const saveEvery = time.Minute

func saving(c *manager.Config) { c.IdleSuspend, c.CheckpointEvery = idle, saveEvery }

// TestCheckpoints checks that an idle sandbox is checkpointed once after each change and keeps running, and that
// it is suspended when it is idle for longer.
func TestCheckpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := bubble(t, saving)
		id := d.create(t, sandbox.CreateRequest{}).ID
		for i, work := range []func(){
			func() { _, _ = d.Update(t.Context(), string(id), sandbox.UpdateRequest{TTL: new(ttl(48 * time.Hour))}) },
			func() { d.run(t, id, "print x", 5) },
			func() { d.writes(t, id, "a", "x") },
		} {
			work()
			began := time.Now()
			wait(saveEvery / 2)
			if n, _ := d.eng.Checkpoints(); n != i {
				t.Fatalf("after half the time it was saved %d times, want %d", n, i)
			}
			wait(2 * saveEvery)
			if n, _ := d.eng.Checkpoints(); n != i+1 {
				t.Fatalf("it was saved %d times, want %d", n, i+1)
			}
			d.wantState(t, "saved", id, sandbox.Running)
			if got, _ := d.Get(t.Context(), string(id)); got.SavedTime.Before(began) {
				t.Errorf("saved_time = %v, want it after %v", got.SavedTime, began)
			}
		}
		d.run(t, id, "sleep 10m", 0)
		wait(9 * time.Minute)
		if n, _ := d.eng.Checkpoints(); n != 3 {
			t.Errorf("it was saved while code ran")
		}
		wait(10 * time.Minute)
		d.wantState(t, "idle for longer", id, sandbox.Suspended)
		if got, _ := d.Get(t.Context(), string(id)); got.SuspendedTo != "disk" || !got.SavedTime.IsZero() {
			t.Errorf("Get() = %+v, want it suspended to disk", got)
		}
	})
}

// TestCallDuringCheckpoint checks that a call during a checkpoint waits until the checkpoint is complete.
func TestCallDuringCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := bubble(t, saving)
		id := d.create(t, sandbox.CreateRequest{}).ID
		d.eng.Set(func() { d.eng.BeforeCheckpoint = func(context.Context) { time.Sleep(time.Second) } })
		for n := 0; n == 0; n, _ = d.eng.Checkpoints() {
			wait(100 * time.Millisecond)
		}
		d.wantState(t, "being saved", id, sandbox.Running)
		if e := d.run(t, id, "print x", 5); output(e) != "x" {
			t.Errorf("output = %q, want x", output(e))
		}
		if _, n := d.eng.Suspends(); n != 0 {
			t.Errorf("it was resumed %d times, want never", n)
		}
	})
}

// TestCheckpointFails checks that a failed checkpoint leaves the sandbox running and is tried again with a
// growing delay.
func TestCheckpointFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := bubble(t, func(c *manager.Config) { c.CheckpointEvery = saveEvery })
		id := d.create(t, sandbox.CreateRequest{}).ID
		d.eng.Set(func() { d.eng.FailCheckpoint = errors.New("no space left on device") })
		wait(2 * time.Hour)
		if n, _ := d.eng.Checkpoints(); n < 3 || n > 8 {
			t.Errorf("tried %d times in two hours, want a few", n)
		}
		d.eng.Set(func() { d.eng.FailCheckpoint = nil })
		if e := d.run(t, id, "print x", 5); output(e) != "x" {
			t.Errorf("output = %q, want x", output(e))
		}
		wait(2 * time.Hour)
		if got, _ := d.Get(t.Context(), string(id)); got.SavedTime.IsZero() {
			t.Error("it was not saved when that worked again")
		}
	})
}

// TestPowerCut checks that a sandbox goes back to its last checkpoint after a power cut. The daemon informs the
// guest of the rewind before any client uses the sandbox. Clients see the rewind in the record of the sandbox,
// and in the answers about later executions and files.
func TestPowerCut(t *testing.T) {
	for _, restart := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			eng := fake.NewEngine()
			defer eng.Close()
			ctx := t.Context()
			d := start(t, filepath.Join(t.TempDir(), "a.db"), eng, saving)
			id := d.create(t, sandbox.CreateRequest{}).ID
			d.writes(t, id, "a", "before")
			kept := d.run(t, id, "print kept", 5)
			wait(2 * saveEvery)
			d.writes(t, id, "a", "after")
			d.writes(t, id, "b", "after")
			undone := d.run(t, id, "print undone", 5)
			ran := d.run(t, id, "sleep 1h", 0)
			unsaved := d.create(t, sandbox.CreateRequest{}).ID
			asOf := eng.CheckpointTime(id)
			wait(time.Second)
			if restart {
				path := crash(t, d)
				eng.PowerCut()
				d = start(t, path, eng, saving)
				d.wantState(t, "after a restart", id, sandbox.Suspended)
			} else {
				eng.PowerCut()
			}
			defer func() { d.stop(t) }()
			eng.Set(func() { eng.FailAwakening = fake.ErrDown })
			_, err := d.Execute(ctx, string(id), sandbox.ExecuteRequest{Code: "print x"})
			wantError(t, "Execute of what could not be told", err, sandbox.Unavailable, "try again")
			d.wantState(t, "not told", id, sandbox.Suspended)
			if restart { // kill the daemon before it has informed the guest of the rewind
				path := crash(t, d)
				d = start(t, path, eng, saving)
				d.wantState(t, "not told, after a restart", id, sandbox.Suspended)
			}
			eng.Set(func() { eng.FailAwakening = nil })
			e := d.run(t, id, "print x", 5)
			if output(e) != "x" || e.KernelEpoch <= undone.KernelEpoch {
				t.Errorf("Execute() = %q in epoch %d, want x in one above %d", output(e), e.KernelEpoch, undone.KernelEpoch)
			}
			told := eng.Guest(id).Awakenings()
			if len(told) != 1 || told[0].Copy || told[0].AsOfUnix != asOf.Unix() || told[0].EpochAbove < undone.KernelEpoch {
				t.Errorf("its guest got the awakenings %+v, want one, as of %d and above an epoch of at least %d", told, asOf.Unix(), undone.KernelEpoch)
			}
			if got, err := d.Get(ctx, string(id)); err != nil || !got.RewoundTo.Equal(asOf) || got.State != sandbox.Running {
				t.Errorf("Get() = %+v, %v, want it as of %v", got, err, asOf)
			}
			if got, err := d.GetExecution(ctx, string(kept.ID), 0, sandbox.Window{}); err != nil || output(got) != "kept" || got.Reason != "" {
				t.Errorf("the execution before = %+v, %v, want its output", got, err)
			}
			for e, want := range map[sandbox.ExecutionID]struct {
				state sandbox.ExecutionState
				gone  bool
			}{undone.ID: {sandbox.ExecSucceeded, true}, ran.ID: {sandbox.ExecLost, false}} {
				got, err := d.GetExecution(ctx, string(e), 5, sandbox.Window{})
				if err != nil || got.State != want.state || got.OutputGone != want.gone || !strings.Contains(got.Reason, "as of "+asOf.UTC().Format(time.RFC3339)) || !strings.Contains(got.Reason, "undone") {
					t.Errorf("GetExecution() = %+v, %v, want it %s, and to say that it is undone", got, err, want.state)
				}
			}
			d.reads(t, id, "a", "before")
			_, _, err = d.ReadFile(ctx, string(id), "b", 0, -1)
			wantError(t, "ReadFile of what was written after", err, sandbox.NotFound, "files written after that are lost")
			_, err = d.Execute(ctx, string(unsaved), sandbox.ExecuteRequest{Code: "print x"})
			wantError(t, "Execute in what was never saved", err, sandbox.Expired, "variables and files are lost")
			wait(time.Hour)
			d.wantState(t, "left alone", id, sandbox.Suspended)
			d.run(t, id, "print x", 5)
			if n := len(eng.Guest(id).Awakenings()); n != 1 {
				t.Errorf("its guest was told %d times, want once", n)
			}
		})
	}
}

// TestCallAfterPowerCut checks that a call to a sandbox whose processes have died resumes the sandbox and
// succeeds.
func TestCallAfterPowerCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := bubble(t, saving)
		id := d.create(t, sandbox.CreateRequest{}).ID
		wait(2 * saveEvery)
		d.eng.PowerCut()
		for range 2 {
			e := d.run(t, id, "print x", 5)
			if e.State != sandbox.ExecSucceeded || output(e) != "x" {
				t.Errorf("Execute() = %+v, want x", e)
			}
		}
	})
}

// TestForkIsTold checks that a fork's guest is informed that it is a fork. If the original was rewound and its
// guest has not been informed of that yet, the fork's guest is also informed of the rewind. If the fork's guest
// cannot be informed, the fork fails.
func TestForkIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := bubble(t, saving)
		of := d.create(t, sandbox.CreateRequest{}).ID
		d.run(t, of, "print x", 5)
		fork := d.create(t, sandbox.CreateRequest{ForkOf: string(of)}).ID
		if got := d.eng.Guest(fork).Awakenings(); len(got) != 1 || got[0] != (guest.Awakening{Copy: true}) {
			t.Errorf("the fork was told %+v, want that it is a copy", got)
		}
		wait(2 * saveEvery)
		asOf := d.eng.CheckpointTime(of)
		d.run(t, of, "print y", 5)
		d.eng.PowerCut()
		fork = d.create(t, sandbox.CreateRequest{ForkOf: string(of)}).ID
		if got := d.eng.Guest(fork).Awakenings(); len(got) != 1 || !got[0].Copy || got[0].AsOfUnix != asOf.Unix() || got[0].EpochAbove < 1 {
			t.Errorf("the fork of what went back was told %+v, want that too", got)
		}
		d.eng.Set(func() { d.eng.FailAwakening = fake.ErrDown })
		_, err := d.Create(t.Context(), sandbox.CreateRequest{ForkOf: string(of)})
		wantError(t, "Create", err, sandbox.Unavailable, "does not answer")
		if n := len(d.eng.IDs()); n != 3 {
			t.Errorf("%d containers, want the original and two forks", n)
		}
	})
}

// TestUndoneExecutionIsSaidToBe checks calls about an execution that detect that its sandbox went back to a
// checkpoint. The answer to that first call must already report that the execution is undone.
func TestUndoneExecutionIsSaidToBe(t *testing.T) {
	for name, ask := range map[string]func(context.Context, *daemon, sandbox.Execution) (sandbox.Execution, error){
		"get": func(ctx context.Context, d *daemon, e sandbox.Execution) (sandbox.Execution, error) {
			return d.GetExecution(ctx, string(e.ID), 0, sandbox.Window{})
		},
		"find": func(ctx context.Context, d *daemon, _ sandbox.Execution) (sandbox.Execution, error) {
			return d.FindExecution(ctx, "late")
		},
		"interrupt": func(ctx context.Context, d *daemon, e sandbox.Execution) (sandbox.Execution, error) {
			return d.Interrupt(ctx, string(e.ID))
		},
		"retry": func(ctx context.Context, d *daemon, e sandbox.Execution) (sandbox.Execution, error) {
			return d.Execute(ctx, string(e.SandboxID), sandbox.ExecuteRequest{Code: "print undone", RequestID: "late"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := bubble(t, saving)
				id := d.create(t, sandbox.CreateRequest{}).ID
				wait(2 * saveEvery)
				e, err := d.Execute(t.Context(), string(id), sandbox.ExecuteRequest{Code: "print undone", RequestID: "late", WaitSeconds: 5})
				if err != nil || e.State != sandbox.ExecSucceeded {
					t.Fatalf("Execute() = %+v, %v, want it succeeded", e, err)
				}
				d.eng.PowerCut()
				got, err := ask(t.Context(), d, e)
				if err != nil || !strings.Contains(got.Reason, "undone") || !strings.Contains(got.Reason, "processes died") {
					t.Errorf("the execution's reason is %q, error %v; want that it is undone because the sandbox's processes died", got.Reason, err)
				}
			})
		})
	}
}
