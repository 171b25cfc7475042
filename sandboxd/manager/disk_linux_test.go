package manager_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// smallDisk returns an empty file system of this size, which is given to tmpfs.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("NOT TESTED: a small file system cannot be mounted: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// fill leaves not a single byte of the disk, and returns the file that takes it.
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

// exhaust fills the database's log too, until nothing is accepted any more.
func (d *daemon) exhaust(t *testing.T, id sandbox.ID) {
	t.Helper()
	for range 2000 {
		if _, err := d.Execute(t.Context(), string(id), sandbox.ExecuteRequest{Code: "sleep 1h"}); err != nil {
			return
		}
	}
	t.Fatal("executions are accepted on a full disk")
}

// On a full disk an execution that was said to have succeeded is never lost afterwards: neither when its sandbox is
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
				eng.setDown(true) // nobody can ask the guest before
				d = start(t, path, eng)
			}
			if err := d.Delete(t.Context(), string(id)); err != nil {
				t.Fatalf("Delete() = %v on a full disk", err)
			}
			got, err = d.GetExecution(t.Context(), string(e.ID), 0, sandbox.Window{})
			if err != nil || got.State != sandbox.ExecInterrupted {
				t.Errorf("GetExecution() = %s %q, %v, want it interrupted, as the answer was", got.State, got.Reason, err)
			}
		})
	}
}
