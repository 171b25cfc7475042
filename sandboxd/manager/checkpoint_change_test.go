package manager_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/manager"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestChangeDuringCheckpointIsInNextCheckpoint checks that a change made while a sandbox is being checkpointed or
// suspended is in the next checkpoint. A power cut after that checkpoint must not undo the change.
func TestChangeDuringCheckpointIsInNextCheckpoint(t *testing.T) {
	for _, operation := range []string{"checkpoint", "suspend"} {
		for name, change := range map[string]func(*testing.T, *daemon, sandbox.ID) (check func()){
			"upload": func(t *testing.T, d *daemon, id sandbox.ID) func() {
				d.writeFile(t, id, "file", "x")
				return func() { d.wantFile(t, id, "file", "x") }
			},
			"execution": func(t *testing.T, d *daemon, id sandbox.ID) func() {
				e := d.execute(t, id, "print x", 5)
				return func() {
					if got, err := d.GetExecution(t.Context(), string(e.ID), 0, sandbox.Window{}); err != nil || output(got) != "x" || got.Reason != "" {
						t.Errorf("GetExecution() = %+v, %v, want its output, and that it is not undone", got, err)
					}
				}
			},
			"TTL": func(t *testing.T, d *daemon, id sandbox.ID) func() {
				sb, err := d.Update(t.Context(), string(id), sandbox.UpdateRequest{TTL: new(ttl(48 * time.Hour))})
				if err != nil {
					t.Errorf("Update() = %v", err)
				}
				if _, _, err := d.ListFiles(t.Context(), string(id)); err != nil { // this call resumes the sandbox
					t.Errorf("ListFiles() = %v", err)
				}
				return func() {
					if got := d.eng.Expiry(id); got.Unix() != sb.ExpireTime.Unix() {
						t.Errorf("the guest in the checkpoint expires at %v, want %v", got, sb.ExpireTime)
					}
				}
			},
		} {
			t.Run(name+" during "+operation, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := newDaemon(t, func(c *manager.Config) { c.CheckpointEvery, c.IdleSuspend = checkpointEvery, 2*checkpointEvery })
					id := d.create(t, sandbox.CreateRequest{}).ID
					started := make(chan struct{}, 1)
					slow := func(context.Context) {
						select {
						case started <- struct{}{}:
						default:
						}
						time.Sleep(time.Second)
					}
					d.eng.Set(func() {
						if operation == "suspend" {
							d.eng.BeforeSuspend = slow
						} else {
							d.eng.BeforeCheckpoint = slow
						}
					})
					<-started
					check := change(t, d, id)
					advance(checkpointEvery * 3 / 2)
					d.wantState(t, "after the change", id, sandbox.Running)
					d.eng.PowerCut()
					check()
				})
			})
		}
	}
}
