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

// mountSmallDisk mounts an empty tmpfs and returns its folder. size is the value of tmpfs's mount option size.
func mountSmallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("NOT TESTED: a small file system cannot be mounted: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// fillDisk writes a file until the disk has no free byte, and returns the file's path.
func fillDisk(t *testing.T, dir string) string {
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

// executeUntilRefused starts executions until the database's write-ahead log is full and an execution is refused.
// It returns the ids of the accepted executions.
func (d *daemon) executeUntilRefused(t *testing.T, id sandbox.ID) (accepted []sandbox.ExecutionID) {
	t.Helper()
	for range 2000 {
		e, err := d.Execute(t.Context(), string(id), sandbox.ExecuteRequest{Code: "sleep 1h"})
		if err != nil {
			wantError(t, "Execute on a full disk", err, sandbox.Unavailable, "disk", "is full")
			return accepted
		}
		accepted = append(accepted, e.ID)
	}
	t.Fatal("2000 executions were accepted on a full disk, want one refused")
	return nil
}

// TestReportedEndSurvivesFullDisk checks executions that end on a full disk. If an answer reported the end of an
// execution, the execution must not become "lost" when its sandbox is deleted, even if the daemon is killed before
// the deletion.
func TestReportedEndSurvivesFullDisk(t *testing.T) {
	for name, restart := range map[string]bool{"deleted": false, "deleted after a restart": true} {
		t.Run(name, func(t *testing.T) {
			dir := mountSmallDisk(t, "6m")
			eng := fake.NewEngine()
			defer eng.Close()
			d := startDaemon(t, filepath.Join(dir, "a.db"), eng)
			defer func() { d.stop(t) }()
			id := d.create(t, sandbox.CreateRequest{}).ID
			e := d.execute(t, id, "sleep 1h", 0)
			fillDisk(t, dir)
			d.executeUntilRefused(t, id)
			got, err := d.Interrupt(t.Context(), string(e.ID))
			if err != nil || got.State != sandbox.ExecInterrupted {
				t.Fatalf("Interrupt() = %+v, %v, want it interrupted", got, err)
			}
			if restart {
				path := crash(t, d)
				eng.SetDown(true) // the new daemon must not get the end of the execution from the guest
				d = startDaemon(t, path, eng)
			}
			if err := d.Delete(t.Context(), string(id)); err != nil {
				t.Fatalf("Delete() = %v on a full disk", err)
			}
			got, err = d.GetExecution(t.Context(), string(e.ID), 0, sandbox.Window{})
			if err != nil || got.State != sandbox.ExecInterrupted {
				t.Errorf("GetExecution() = %s %q, %v, want interrupted, as in the first answer", got.State, got.Reason, err)
			}
		})
	}
}

// TestUnrecordedEndIsNotReported checks executions that end on a full disk when the reserve is used up too. No
// answer may contain an end that is not on record. The end is recorded when there is free space again.
func TestUnrecordedEndIsNotReported(t *testing.T) {
	dir := mountSmallDisk(t, "6m")
	eng := fake.NewEngine()
	defer eng.Close()
	d := startDaemon(t, filepath.Join(dir, "a.db"), eng)
	defer func() { d.stop(t) }()
	id := d.create(t, sandbox.CreateRequest{}).ID
	if err := os.Remove(filepath.Join(dir, "a.db.reserve")); err != nil {
		t.Fatal(err)
	}
	var running []sandbox.ExecutionID
	for range 400 {
		running = append(running, d.execute(t, id, "sleep 1h", 0).ID)
	}
	filler := fillDisk(t, dir)
	running = append(running, d.executeUntilRefused(t, id)...)
	var refused sandbox.ExecutionID
	for _, e := range running { // the first few ends still fit into the database's write-ahead log
		got, err := d.Interrupt(t.Context(), string(e))
		if err != nil {
			wantError(t, "Interrupt", err, sandbox.Unavailable, string(e)+" has ended", "Do not run the code again", "is full")
			refused = e
			break
		}
		if rec, err := d.store.Execution(t.Context(), e); err != nil || rec.State != got.State {
			t.Fatalf("Interrupt() = %s, but the record is %s, %v; want the same state", got.State, rec.State, err)
		}
	}
	if refused == "" {
		t.Fatal("all Interrupts succeeded on a full disk, want one refused")
	}
	err := d.FollowExecution(t.Context(), string(refused), 0, func(ev sandbox.Event) error {
		if ev.Type == sandbox.EventStatus && ev.State.Final() {
			t.Errorf("FollowExecution() returns the end %+v, which is not on record", ev)
		}
		return nil
	})
	wantError(t, "FollowExecution", err, sandbox.Unavailable, "has ended")
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "the end of the execution is on record without another call", func() bool {
		rec, err := d.store.Execution(t.Context(), refused)
		return err == nil && rec.State == sandbox.ExecInterrupted
	})
}

// TestSandboxResumesOnFullDisk checks that a suspended sandbox can be resumed on a full disk, so that a client can read
// its files before deleting it to free space.
func TestSandboxResumesOnFullDisk(t *testing.T) {
	dir := mountSmallDisk(t, "6m")
	eng := fake.NewEngine()
	defer eng.Close()
	d := startDaemon(t, filepath.Join(dir, "a.db"), eng, func(c *manager.Config) { c.IdleSuspend = 10 * time.Millisecond })
	defer func() { d.stop(t) }()
	id, other := d.create(t, sandbox.CreateRequest{}).ID, d.create(t, sandbox.CreateRequest{}).ID
	d.execute(t, other, "sleep 1h", 0) // running code keeps the other sandbox from being suspended
	d.writeFile(t, id, "a", "needed")
	waitUntil(t, "the sandbox is suspended", func() bool {
		got, err := d.Get(t.Context(), string(id))
		return err == nil && got.State == sandbox.Suspended
	})
	fillDisk(t, dir)
	d.executeUntilRefused(t, other)
	d.wantFile(t, id, "a", "needed")
	if err := d.Delete(t.Context(), string(id)); err != nil {
		t.Errorf("Delete() = %v", err)
	}
}
