package manager_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/manager"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// smallDisk mounts an empty tmpfs of this size and returns its folder. size is tmpfs's mount option.
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

// exhaust starts executions until the database's log is full and one is refused. It returns those that were accepted.
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

// On a full disk an execution that an answer reported as ended is not "lost" afterwards, neither when its sandbox is
// deleted, nor when the daemon is killed before that.
func TestEndOnFullDisk(t *testing.T) {
	for name, killed := range map[string]bool{"deleted": false, "deleted by the next daemon": true} {
		t.Run(name, func(t *testing.T) {
			dir := smallDisk(t, "6m")
			eng := newTestEngine()
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
				eng.setDown(true) // the new daemon can't ask the guest before the deletion
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

// If the reserve is used up too, no answer contains an end that is not on record. The end is recorded when
// there is free space again.
func TestEndThatCannotBeRecorded(t *testing.T) {
	dir := smallDisk(t, "6m")
	eng := newTestEngine()
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
	for _, e := range running { // the first ends fit into the rest of the database's log
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

// On a full disk a suspended sandbox can be resumed, so that its files can be read before it is deleted to free space.
func TestResumesOnFullDisk(t *testing.T) {
	dir := smallDisk(t, "6m")
	eng := newTestEngine()
	defer eng.Close()
	d := start(t, filepath.Join(dir, "a.db"), eng, func(c *manager.Config) { c.IdleSuspend = 10 * time.Millisecond })
	defer func() { d.stop(t) }()
	id, other := d.create(t, sandbox.CreateRequest{}).ID, d.create(t, sandbox.CreateRequest{}).ID
	d.run(t, other, "sleep 1h", 0) // keeps it from being suspended
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
