package manager_test

import (
	"context"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/fake"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// smallSnapshotter is an engine on a machine with one CPU and 1 GiB of memory. It records the limits of each snapshot that
// it is asked for and of each sandbox that it is asked to start from one.
type smallSnapshotter struct {
	*fake.Engine
	snapshots, starts chan sandbox.Limits
}

func (s smallSnapshotter) Info() engine.Info {
	info := s.Engine.Info()
	info.CPUs, info.Memory = 1, 1<<30
	return info
}

func (s smallSnapshotter) Snapshot(_ context.Context, spec engine.Spec, _ func(context.Context) error) error {
	s.snapshots <- spec.Limits
	return nil
}

func (s smallSnapshotter) Start(_ context.Context, spec engine.Spec) (bool, error) {
	s.starts <- spec.Limits
	return false, nil
}

// TestFirstSnapshotHasLimitsOfDefaultSandbox checks that, on a machine that is smaller than the default limits, the
// snapshot that a manager makes when it starts has the limits of a sandbox that is created without parameters.
func TestFirstSnapshotHasLimitsOfDefaultSandbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eng := smallSnapshotter{fake.NewEngine(), make(chan sandbox.Limits, 10), make(chan sandbox.Limits, 10)}
		d := startDaemon(t, filepath.Join(t.TempDir(), "a.db"), eng)
		defer func() { d.stop(t); eng.Close() }()
		time.Sleep(time.Minute) // the fake time of synctest
		var made sandbox.Limits
		select {
		case made = <-eng.snapshots:
		default:
			t.Fatal("the manager has not made a snapshot a minute after its start")
		}
		d.create(t, sandbox.CreateRequest{})
		if want := <-eng.starts; made != want {
			t.Errorf("the snapshot has the limits %+v, want those of the sandbox, %+v", made, want)
		}
	})
}
