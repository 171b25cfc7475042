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

const checkpointEvery = time.Minute

// withCheckpoints turns suspend and checkpoints on.
func withCheckpoints(c *manager.Config) {
	c.IdleSuspend, c.CheckpointEvery = idleSuspend, checkpointEvery
}

// TestIdleSandboxIsCheckpointedOncePerChange checks that an idle sandbox is checkpointed once after each change
// and keeps running, and that it is suspended when it is idle for longer.
func TestIdleSandboxIsCheckpointedOncePerChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon(t, withCheckpoints)
		id := d.create(t, sandbox.CreateRequest{}).ID
		for i, work := range []func(){
			func() { _, _ = d.Update(t.Context(), string(id), sandbox.UpdateRequest{TTL: new(ttl(48 * time.Hour))}) },
			func() { d.execute(t, id, "print x", 5) },
			func() { d.writeFile(t, id, "a", "x") },
		} {
			work()
			changed := time.Now()
			advance(checkpointEvery / 2)
			if n, _ := d.eng.Checkpoints(); n != i {
				t.Fatalf("%d checkpoints after half of CheckpointEvery, want %d", n, i)
			}
			advance(2 * checkpointEvery)
			if n, _ := d.eng.Checkpoints(); n != i+1 {
				t.Fatalf("%d checkpoints, want %d", n, i+1)
			}
			d.wantState(t, "after a checkpoint", id, sandbox.Running)
			if got, _ := d.Get(t.Context(), string(id)); got.SavedTime.Before(changed) {
				t.Errorf("saved_time = %v, want a time after %v", got.SavedTime, changed)
			}
		}
		d.execute(t, id, "sleep 10m", 0)
		advance(9 * time.Minute)
		if n, _ := d.eng.Checkpoints(); n != 3 {
			t.Errorf("%d checkpoints while code runs, want the 3 from before", n)
		}
		advance(10 * time.Minute)
		d.wantState(t, "idle for longer", id, sandbox.Suspended)
		if got, _ := d.Get(t.Context(), string(id)); got.SuspendedTo != "disk" || !got.SavedTime.IsZero() {
			t.Errorf("Get() = %+v, want it suspended to disk", got)
		}
	})
}

// TestCallWaitsForCheckpoint checks that a call during a checkpoint waits until the checkpoint is complete.
func TestCallWaitsForCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon(t, withCheckpoints)
		id := d.create(t, sandbox.CreateRequest{}).ID
		d.eng.Set(func() { d.eng.BeforeCheckpoint = func(context.Context) { time.Sleep(time.Second) } })
		for n := 0; n == 0; n, _ = d.eng.Checkpoints() {
			advance(100 * time.Millisecond)
		}
		d.wantState(t, "during the checkpoint", id, sandbox.Running)
		if e := d.execute(t, id, "print x", 5); output(e) != "x" {
			t.Errorf("output = %q, want x", output(e))
		}
		if _, n := d.eng.Suspends(); n != 0 {
			t.Errorf("the sandbox was resumed %d times, want 0", n)
		}
	})
}

// TestFailedCheckpointIsRetried checks that a failed checkpoint leaves the sandbox running and is tried again with a
// growing delay.
func TestFailedCheckpointIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon(t, func(c *manager.Config) { c.CheckpointEvery = checkpointEvery })
		id := d.create(t, sandbox.CreateRequest{}).ID
		d.eng.Set(func() { d.eng.FailCheckpoint = errors.New("no space left on device") })
		advance(2 * time.Hour)
		if n, _ := d.eng.Checkpoints(); n < 3 || n > 8 {
			t.Errorf("%d checkpoints were tried in two hours, want 3 to 8", n)
		}
		d.eng.Set(func() { d.eng.FailCheckpoint = nil })
		if e := d.execute(t, id, "print x", 5); output(e) != "x" {
			t.Errorf("output = %q, want x", output(e))
		}
		advance(2 * time.Hour)
		if got, _ := d.Get(t.Context(), string(id)); got.SavedTime.IsZero() {
			t.Error("saved_time is zero after checkpoints succeed again, want a time")
		}
	})
}

// TestPowerCutRewindsSandbox checks that a sandbox goes back to its last checkpoint after a power cut. The daemon
// informs the guest of the rewind before any client uses the sandbox. Clients see the rewind in the record of the
// sandbox, and in the answers about later executions and files.
func TestPowerCutRewindsSandbox(t *testing.T) {
	for _, restart := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			eng := fake.NewEngine()
			defer eng.Close()
			ctx := t.Context()
			d := startDaemon(t, filepath.Join(t.TempDir(), "a.db"), eng, withCheckpoints)
			id := d.create(t, sandbox.CreateRequest{}).ID
			d.writeFile(t, id, "a", "before")
			checkpointed := d.execute(t, id, "print checkpointed", 5)
			advance(2 * checkpointEvery)
			d.writeFile(t, id, "a", "after")
			d.writeFile(t, id, "b", "after")
			undone := d.execute(t, id, "print undone", 5)
			ran := d.execute(t, id, "sleep 1h", 0)
			withoutCheckpoint := d.create(t, sandbox.CreateRequest{}).ID
			asOf := eng.CheckpointTime(id)
			advance(time.Second)
			if restart {
				path := crash(t, d)
				eng.PowerCut()
				d = startDaemon(t, path, eng, withCheckpoints)
				d.wantState(t, "after a restart", id, sandbox.Suspended)
			} else {
				eng.PowerCut()
			}
			defer func() { d.stop(t) }()
			eng.Set(func() { eng.FailRestore = fake.ErrDown })
			_, err := d.Execute(ctx, string(id), sandbox.ExecuteRequest{Code: "print x"})
			wantError(t, "Execute while the guest cannot be informed of the rewind", err, sandbox.Unavailable, "try again")
			d.wantState(t, "while the guest is not informed", id, sandbox.Suspended)
			if restart { // kill the daemon before it has informed the guest of the rewind
				path := crash(t, d)
				d = startDaemon(t, path, eng, withCheckpoints)
				d.wantState(t, "while the guest is not informed, after a restart", id, sandbox.Suspended)
			}
			eng.Set(func() { eng.FailRestore = nil })
			e := d.execute(t, id, "print x", 5)
			if output(e) != "x" || e.KernelEpoch <= undone.KernelEpoch {
				t.Errorf("Execute() = %q in epoch %d, want x in an epoch above %d", output(e), e.KernelEpoch, undone.KernelEpoch)
			}
			restores := eng.Guest(id).Restores()
			if len(restores) != 1 || restores[0].Forked || restores[0].AsOfUnix != asOf.Unix() || restores[0].EpochAbove < undone.KernelEpoch {
				t.Errorf("the guest was informed of the restores %+v, want one, with AsOfUnix %d and EpochAbove of at least %d", restores, asOf.Unix(), undone.KernelEpoch)
			}
			if got, err := d.Get(ctx, string(id)); err != nil || !got.RewoundTo.Equal(asOf) || got.State != sandbox.Running {
				t.Errorf("Get() = %+v, %v, want a running sandbox with RewoundTo %v", got, err, asOf)
			}
			if got, err := d.GetExecution(ctx, string(checkpointed.ID), 0, sandbox.Window{}); err != nil || output(got) != "checkpointed" || got.Reason != "" {
				t.Errorf("the execution from before the checkpoint = %+v, %v, want its output", got, err)
			}
			for e, want := range map[sandbox.ExecutionID]struct {
				state sandbox.ExecutionState
				gone  bool
			}{undone.ID: {sandbox.ExecSucceeded, true}, ran.ID: {sandbox.ExecLost, false}} {
				got, err := d.GetExecution(ctx, string(e), 5, sandbox.Window{})
				if err != nil || got.State != want.state || got.OutputGone != want.gone || !strings.Contains(got.Reason, "as of "+asOf.UTC().Format(time.RFC3339)) || !strings.Contains(got.Reason, "undone") {
					t.Errorf("GetExecution() = %+v, %v, want the state %s and a reason that says that it is undone", got, err, want.state)
				}
			}
			d.wantFile(t, id, "a", "before")
			_, _, err = d.ReadFile(ctx, string(id), "b", 0, -1)
			wantError(t, "ReadFile of a file that was written after the checkpoint", err, sandbox.NotFound, "files written after that are lost")
			_, err = d.Execute(ctx, string(withoutCheckpoint), sandbox.ExecuteRequest{Code: "print x"})
			wantError(t, "Execute in a sandbox without a checkpoint", err, sandbox.Expired, "variables and files are lost")
			advance(time.Hour)
			d.wantState(t, "after an idle hour", id, sandbox.Suspended)
			d.execute(t, id, "print x", 5)
			if n := len(eng.Guest(id).Restores()); n != 1 {
				t.Errorf("the guest was informed of %d restores, want 1", n)
			}
		})
	}
}

// TestCallAfterPowerCutSucceeds checks that a call to a sandbox whose processes have died resumes the sandbox and
// succeeds.
func TestCallAfterPowerCutSucceeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon(t, withCheckpoints)
		id := d.create(t, sandbox.CreateRequest{}).ID
		advance(2 * checkpointEvery)
		d.eng.PowerCut()
		for range 2 {
			e := d.execute(t, id, "print x", 5)
			if e.State != sandbox.ExecSucceeded || output(e) != "x" {
				t.Errorf("Execute() = %+v, want it succeeded with the output x", e)
			}
		}
	})
}

// TestGuestOfForkIsInformed checks that a fork's guest is informed that it is a fork. If the original was rewound
// and its guest has not been informed of that yet, the fork's guest is also informed of the rewind. If the fork's
// guest cannot be informed, the fork fails.
func TestGuestOfForkIsInformed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon(t, withCheckpoints)
		original := d.create(t, sandbox.CreateRequest{}).ID
		d.execute(t, original, "print x", 5)
		fork := d.create(t, sandbox.CreateRequest{ForkOf: string(original)}).ID
		if got := d.eng.Guest(fork).Restores(); len(got) != 1 || got[0] != (guest.Restore{Forked: true}) {
			t.Errorf("the fork's guest was informed of the restores %+v, want one, of a fork", got)
		}
		advance(2 * checkpointEvery)
		asOf := d.eng.CheckpointTime(original)
		d.execute(t, original, "print y", 5)
		d.eng.PowerCut()
		fork = d.create(t, sandbox.CreateRequest{ForkOf: string(original)}).ID
		if got := d.eng.Guest(fork).Restores(); len(got) != 1 || !got[0].Forked || got[0].AsOfUnix != asOf.Unix() || got[0].EpochAbove < 1 {
			t.Errorf("the guest of a rewound original's fork was informed of the restores %+v, want one, of a fork and the rewind", got)
		}
		d.eng.Set(func() { d.eng.FailRestore = fake.ErrDown })
		_, err := d.Create(t.Context(), sandbox.CreateRequest{ForkOf: string(original)})
		wantError(t, "Create", err, sandbox.Unavailable, "does not answer")
		if n := len(d.eng.IDs()); n != 3 {
			t.Errorf("%d containers, want 3: the original and two forks", n)
		}
	})
}

// TestFirstAnswerReportsUndoneExecution checks the first call after a sandbox went back to a checkpoint. If that
// call asks for an execution that is undone, the answer must report that.
func TestFirstAnswerReportsUndoneExecution(t *testing.T) {
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
				d := newDaemon(t, withCheckpoints)
				id := d.create(t, sandbox.CreateRequest{}).ID
				advance(2 * checkpointEvery)
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

// TestProcessesDieDuringSuspend checks that a sandbox goes back to its last checkpoint if its processes die during
// a suspend. Clients must be informed of the rewind.
func TestProcessesDieDuringSuspend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon(t, func(c *manager.Config) { c.CheckpointEvery, c.IdleSuspend = checkpointEvery, 3*checkpointEvery })
		id := d.create(t, sandbox.CreateRequest{}).ID
		d.writeFile(t, id, "a", "saved")
		advance(2 * checkpointEvery)
		asOf := d.eng.CheckpointTime(id)
		d.eng.Set(func() {
			d.eng.BeforeSuspend = func(context.Context) { d.eng.PowerCut() }
			d.eng.FailSuspend = fake.ErrDown
			d.eng.FailCheckpoint = fake.ErrDown
		})
		d.writeFile(t, id, "a", "lost")
		advance(4 * checkpointEvery)
		d.eng.Set(func() { d.eng.BeforeSuspend, d.eng.FailSuspend = nil, nil })
		d.wantFile(t, id, "a", "saved")
		if got, err := d.Get(t.Context(), string(id)); err != nil || asOf.IsZero() || !got.RewoundTo.Equal(asOf) {
			t.Errorf("Get() = rewound to %v, %v, want %v", got.RewoundTo, err, asOf)
		}
	})
}
