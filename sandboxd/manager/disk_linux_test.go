package manager_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/manager"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/fake"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// smallDisk mounts an empty tmpfs and returns its folder. size is the value of tmpfs's mount option size.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("NOT TESTED: a small file system cannot be mounted: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// fill writes a file until the disk has no free byte, and returns the file's path.
func fill(t *testing.T, dir string) string {
	t.Helper()
	filler := filepath.Join(dir, "filler")
	for size := 1 << 20; size > 0; size /= 2 {
		f, err := os.OpenFile(filler, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = f.Write(make([]byte, size))
		}
		_ = f.Close()
	}
	return filler
}

// exhaust starts executions until the database's write-ahead log is full and an execution is refused. It returns
// the ids of the accepted executions.
func (d *daemon) exhaust(t *testing.T, id sandbox.ID) (accepted []sandbox.ExecutionID) {
	t.Helper()
	for range 2000 {
		e, err := d.Execute(t.Context(), string(id), sandbox.ExecuteRequest{Code: "sleep 1h"})
		if err != nil {
			wantError(t, "Execute on a full disk", err, sandbox.Unavailable, "disk", "is full")
			return accepted
		}
		accepted = append(accepted, e.ID)
	}
	t.Fatal("2000 executions were accepted on a full disk, want a refusal")
	return nil
}

// TestEndOnFullDisk checks executions that end on a full disk. If an answer reported the end of an execution,
// the execution must not become "lost" when its sandbox is deleted, even if the daemon is killed before the
// deletion.
func TestEndOnFullDisk(t *testing.T) {
	for name, killed := range map[string]bool{"deleted": false, "deleted by the next daemon": true} {
		t.Run(name, func(t *testing.T) {
			dir := smallDisk(t, "6m")
			eng := fake.NewEngine()
			defer eng.Close()
			d := start(t, filepath.Join(dir, "a.db"), eng)
			defer func() { d.stop(t) }()
			id := d.create(t, sandbox.CreateRequest{}).ID
			e := d.run(t, id, "sleep 1h", 0)
			fill(t, dir)
			d.exhaust(t, id)
			got, err := d.Interrupt(t.Context(), string(e.ID))
			if err != nil || got.State != sandbox.ExecInterrupted {
				t.Fatalf("Interrupt() = %+v, %v, want it interrupted", got, err)
			}
			if killed {
				path := crash(t, d)
				eng.SetDown(true) // so that the new daemon cannot ask the guest for the end before the deletion
				d = start(t, path, eng)
			}
			if err := d.Delete(t.Context(), string(id)); err != nil {
				t.Fatalf("Delete() = %v on a full disk", err)
			}
			got, err = d.GetExecution(t.Context(), string(e.ID), 0, sandbox.Window{})
			if err != nil || got.State != sandbox.ExecInterrupted {
				t.Errorf("GetExecution() = %s %q, %v, want interrupted, like the first answer", got.State, got.Reason, err)
			}
		})
	}
}

// TestEndThatCannotBeRecorded checks executions that end on a full disk when the reserve is used up too. No
// answer may contain an end that is not on record. The end is recorded when there is free space again.
func TestEndThatCannotBeRecorded(t *testing.T) {
	dir := smallDisk(t, "6m")
	eng := fake.NewEngine()
	defer eng.Close()
	d := start(t, filepath.Join(dir, "a.db"), eng)
	defer func() { d.stop(t) }()
	id := d.create(t, sandbox.CreateRequest{}).ID
	if err := os.Remove(filepath.Join(dir, "a.db.reserve")); err != nil {
		t.Fatal(err)
	}
	var running []sandbox.ExecutionID
	for range 400 {
		running = append(running, d.run(t, id, "sleep 1h", 0).ID)
	}
	filler := fill(t, dir)
	running = append(running, d.exhaust(t, id)...)
	var refused sandbox.ExecutionID
	for _, e := range running { // the first few ends still fit into the database's write-ahead log
		got, err := d.Interrupt(t.Context(), string(e))
		if err != nil {
			wantError(t, "Interrupt", err, sandbox.Unavailable, string(e)+" has ended", "Do not run the code again", "is full")
			refused = e
			break
		}
		if rec, err := d.store.Execution(t.Context(), e); err != nil || rec.State != got.State {
			t.Fatalf("the answer is %s and the record %s, %v", got.State, rec.State, err)
		}
	}
	if refused == "" {
		t.Fatal("all ends were recorded on a full disk")
	}
	err := d.FollowExecution(t.Context(), string(refused), 0, func(ev sandbox.Event) error {
		if ev.Type == sandbox.EventStatus && ev.State.Final() {
			t.Errorf("FollowExecution() has the end %+v, which is not on record", ev)
		}
		return nil
	})
	wantError(t, "FollowExecution", err, sandbox.Unavailable, "has ended")
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end is on record without another call", func() bool {
		rec, err := d.store.Execution(t.Context(), refused)
		return err == nil && rec.State == sandbox.ExecInterrupted
	})
}

// TestResumesOnFullDisk checks that a suspended sandbox can be resumed on a full disk, so that a client can read
// its files before deleting it to free space.
func TestResumesOnFullDisk(t *testing.T) {
	dir := smallDisk(t, "6m")
	eng := fake.NewEngine()
	defer eng.Close()
	d := start(t, filepath.Join(dir, "a.db"), eng, func(c *manager.Config) { c.IdleSuspend = 10 * time.Millisecond })
	defer func() { d.stop(t) }()
	id, other := d.create(t, sandbox.CreateRequest{}).ID, d.create(t, sandbox.CreateRequest{}).ID
	d.run(t, other, "sleep 1h", 0) // running code keeps the other sandbox from being suspended
	d.writes(t, id, "a", "needed")
	eventually(t, "it is suspended", func() bool {
		got, err := d.Get(t.Context(), string(id))
		return err == nil && got.State == sandbox.Suspended
	})
	fill(t, dir)
	d.exhaust(t, other)
	d.reads(t, id, "a", "needed")
	if err := d.Delete(t.Context(), string(id)); err != nil {
		t.Errorf("Delete() = %v", err)
	}
}
