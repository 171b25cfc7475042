package manager_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/manager"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/fake"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestDaemonKilledAtEachStep kills the daemon at each step of a suspend, a resume, a checkpoint, a fork, and the
// recovery from a power cut. It checks that the next daemon keeps everything that was acknowledged to clients, and
// that no container is left without a record.
func TestDaemonKilledAtEachStep(t *testing.T) {
	executeOnce := func(ctx context.Context, d *daemon, id sandbox.ID) {
		_, _ = d.Execute(ctx, string(id), sandbox.ExecuteRequest{Code: "print called", RequestID: "call"})
	}
	forkOnce := func(ctx context.Context, d *daemon, id sandbox.ID) {
		_, _ = d.Create(ctx, sandbox.CreateRequest{ForkOf: string(id), RequestID: "fork"})
	}
	for _, tt := range []struct {
		step      string                                     // the value of CrashAt of [fake.Engine]
		suspended bool                                       // the sandbox is suspended before the step
		powerCut  bool                                       // the power fails before the step
		do        func(context.Context, *daemon, sandbox.ID) // the call that leads to the step
	}{
		{step: "suspend", do: executeOnce}, {step: "suspended", do: executeOnce},
		{step: "resume", suspended: true, do: executeOnce}, {step: "resumed", suspended: true, do: executeOnce},
		{step: "checkpoint", do: executeOnce}, {step: "checkpointed", do: executeOnce},
		{step: "fork", do: forkOnce}, {step: "forked", do: forkOnce}, {step: "fork", suspended: true, do: forkOnce}, {step: "forked", suspended: true, do: forkOnce},
		{step: "report restore", do: forkOnce},
		{step: "resume", powerCut: true, do: executeOnce}, {step: "resumed", powerCut: true, do: executeOnce}, {step: "report restore", powerCut: true, do: executeOnce},
		{step: "forked", powerCut: true, do: forkOnce}, {step: "report restore", powerCut: true, do: forkOnce},
	} {
		name := tt.step
		if tt.suspended {
			name += ", suspended"
		}
		if tt.powerCut {
			name += ", after a power cut"
		}
		t.Run(name, func(t *testing.T) {
			eng := fake.NewEngine()
			defer eng.Close()
			short := func(c *manager.Config) {
				c.IdleSuspend, c.CheckpointEvery = 40*time.Millisecond, 10*time.Millisecond
				if strings.HasPrefix(tt.step, "checkpoint") {
					c.IdleSuspend = 0 // a suspend would make the checkpoint unnecessary
				}
			}
			long := func(c *manager.Config) { c.IdleSuspend, c.CheckpointEvery = time.Hour, time.Hour }
			d := startDaemon(t, filepath.Join(t.TempDir(), "a.db"), eng, short)
			ctx := t.Context()
			id := d.create(t, sandbox.CreateRequest{}).ID
			d.writeFile(t, id, "a", "text")
			e := d.execute(t, id, "print before", 5)
			if tt.suspended || tt.powerCut {
				waitUntil(t, "the sandbox is suspended", func() bool { got, err := d.Get(ctx, string(id)); return err == nil && got.State == sandbox.Suspended })
			}
			if tt.powerCut {
				d.stop(t)
				d = startDaemon(t, d.path, eng, long)
				d.writeFile(t, id, "b", "undone")
				eng.PowerCut()
			}
			crashing := make(chan struct{})
			eng.Set(func() { eng.CrashAt, eng.Crashing = tt.step, crashing })
			call, cancel := context.WithCancel(ctx)
			defer cancel()
			go tt.do(call, d, id)
			select {
			case <-crashing:
			case <-time.After(time.Minute):
				t.Fatalf("the call has not reached the step %s after a minute", tt.step)
			}
			path := crash(t, d)
			next := startDaemon(t, path, eng, long)
			defer next.stop(t)
			d = next

			waitUntil(t, "the end of the call's execution is on record without another call", func() bool {
				unfinished, err := d.store.Unfinished(ctx)
				return err == nil && len(unfinished) == 0
			})
			d.wantFile(t, id, "a", "text")
			if got, err := d.GetExecution(ctx, string(e.ID), 0, sandbox.Window{}); err != nil || output(got) != "before" {
				t.Errorf("GetExecution() = %+v, %v, want its output", got, err)
			}
			got, err := d.Execute(ctx, string(id), sandbox.ExecuteRequest{Code: "print called", RequestID: "call", WaitSeconds: 5})
			if err != nil || got.State == sandbox.ExecSucceeded && output(got) != "called" {
				t.Errorf("the repeated Execute = %+v, %v, want no error and, if it succeeded, its output", got, err)
			}
			fork := d.create(t, sandbox.CreateRequest{ForkOf: string(id), RequestID: "fork"})
			d.wantFile(t, fork.ID, "a", "text")
			if restores := eng.Guest(fork.ID).Restores(); len(restores) == 0 || !restores[0].Forked {
				t.Errorf("the fork's guest was informed of the restores %+v, want that of a fork first", restores)
			}
			if tt.powerCut {
				restores := eng.Guest(id).Restores()
				if len(restores) == 0 || restores[0].AsOfUnix == 0 {
					t.Errorf("the guest was informed of the restores %+v, want a rewind first", restores)
				}
				_, _, err := d.ReadFile(ctx, string(id), "b", 0, -1)
				wantError(t, "ReadFile of a file that was written after the checkpoint", err, sandbox.NotFound, "are lost")
			}
			waitUntil(t, "the engine has two containers, the original and the fork", func() bool { return len(eng.IDs()) == 2 })
		})
	}
}
