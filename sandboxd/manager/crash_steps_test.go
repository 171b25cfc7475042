package manager_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/manager"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/fake"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestKilledAt kills the daemon at each step of a suspend, a resume, a checkpoint, a fork, and the recovery from
// a power cut. It checks that the next daemon keeps everything that was acknowledged to clients, and that no
// container is left without a record.
func TestKilledAt(t *testing.T) {
	execute := func(ctx context.Context, d *daemon, id sandbox.ID) {
		_, _ = d.Execute(ctx, string(id), sandbox.ExecuteRequest{Code: "print called", RequestID: "call"})
	}
	fork := func(ctx context.Context, d *daemon, id sandbox.ID) {
		_, _ = d.Create(ctx, sandbox.CreateRequest{ForkOf: string(id), RequestID: "fork"})
	}
	nothing := func(context.Context, *daemon, sandbox.ID) {}
	for _, tt := range []struct {
		step   string
		asleep bool // the sandbox is suspended before the step
		cut    bool // the power fails before the step
		do     func(context.Context, *daemon, sandbox.ID)
	}{
		{step: "suspend", do: nothing}, {step: "suspended", do: nothing},
		{step: "resume", asleep: true, do: execute}, {step: "resumed", asleep: true, do: execute},
		{step: "checkpoint", do: nothing}, {step: "checkpointed", do: nothing},
		{step: "fork", do: fork}, {step: "forked", do: fork}, {step: "fork", asleep: true, do: fork}, {step: "forked", asleep: true, do: fork},
		{step: "awaken", do: fork},
		{step: "resume", cut: true, do: execute}, {step: "resumed", cut: true, do: execute}, {step: "awaken", cut: true, do: execute},
		{step: "forked", cut: true, do: fork}, {step: "awaken", cut: true, do: fork},
	} {
		name := tt.step
		if tt.asleep {
			name += ", asleep"
		}
		if tt.cut {
			name += ", after a power cut"
		}
		t.Run(name, func(t *testing.T) {
			eng := fake.NewEngine()
			defer eng.Close()
			quick := func(c *manager.Config) { c.IdleSuspend, c.CheckpointEvery = 40*time.Millisecond, 10*time.Millisecond }
			patient := func(c *manager.Config) { c.IdleSuspend, c.CheckpointEvery = time.Hour, time.Hour }
			d := start(t, filepath.Join(t.TempDir(), "a.db"), eng, quick)
			ctx := t.Context()
			id := d.create(t, sandbox.CreateRequest{}).ID
			d.writes(t, id, "a", "kept")
			e := d.run(t, id, "print before", 5)
			switch {
			case tt.asleep, tt.cut:
				eventually(t, "it sleeps", func() bool { got, err := d.Get(ctx, string(id)); return err == nil && got.State == sandbox.Suspended })
			}
			if tt.cut {
				d.stop(t)
				d = start(t, d.path, eng, patient)
				d.writes(t, id, "b", "undone")
				eng.PowerCut()
			}
			crashing := make(chan struct{})
			eng.Set(func() { eng.CrashAt, eng.Crashing = tt.step, crashing })
			call, cancel := context.WithCancel(ctx)
			defer cancel()
			go tt.do(call, d, id)
			select {
			case <-crashing:
			case <-time.After(10 * time.Second):
				t.Fatalf("step %s was not reached", tt.step)
			}
			path := crash(t, d)
			next := start(t, path, eng, patient)
			defer next.stop(t)
			d = next

			eventually(t, "what became of the call is on record, though nobody asks", func() bool {
				left, err := d.store.Unfinished(ctx)
				return err == nil && len(left) == 0
			})
			d.reads(t, id, "a", "kept")
			if got, err := d.GetExecution(ctx, string(e.ID), 0, sandbox.Window{}); err != nil || output(got) != "before" {
				t.Errorf("GetExecution() = %+v, %v, want its output", got, err)
			}
			got, err := d.Execute(ctx, string(id), sandbox.ExecuteRequest{Code: "print called", RequestID: "call", WaitSeconds: 5})
			if err != nil || got.State == sandbox.ExecSucceeded && output(got) != "called" {
				t.Errorf("the call again = %+v, %v", got, err)
			}
			copied := d.create(t, sandbox.CreateRequest{ForkOf: string(id), RequestID: "fork"})
			d.reads(t, copied.ID, "a", "kept")
			if told := eng.Guest(copied.ID).Awakenings(); len(told) == 0 || !told[0].Copy {
				t.Errorf("the copy was told %+v, want that it is one", told)
			}
			if tt.cut {
				told := eng.Guest(id).Awakenings()
				if len(told) == 0 || told[0].AsOfUnix == 0 {
					t.Errorf("its guest was told %+v, want that it went back", told)
				}
				_, _, err := d.ReadFile(ctx, string(id), "b", 0, -1)
				wantError(t, "ReadFile of what was undone", err, sandbox.NotFound, "are lost")
			}
			eventually(t, "there are the two and nothing besides", func() bool { return len(eng.IDs()) == 2 })
		})
	}
}
