package store_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// TestFullDiskLosesNoRecord checks that on a full disk changes return an error and no record is lost, and that a
// sandbox can still be terminated, which frees space. Changes succeed again when there is free space.
func TestFullDiskLosesNoRecord(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=3m"); err != nil {
		t.Skipf("NOT TESTED: a small file system cannot be mounted: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	synctest.Test(t, func(t *testing.T) { testFullDisk(t, dir) })
}

func testFullDisk(t *testing.T, dir string) {
	s := openStore(t, filepath.Join(dir, "x.db"))
	r, other := addRunning(t, s, newRecord(200_001)), addRunning(t, s, newRecord(200_002))
	stored := addExecution(t, s, r.ID, "")
	filler := fillDisk(t, dir)
	var err error
	for range 1000 {
		if err = s.AddExecution(store.Execution{Execution: sandbox.Execution{ID: sandbox.NewExecutionID(), SandboxID: r.ID, Reason: strings.Repeat("x", 4000)}}); err != nil {
			break
		}
	}
	if err == nil || errors.Is(err, store.ErrNotRunning) || s.Ping(t.Context()) == nil {
		t.Fatalf("AddExecution() = %v, Ping() = %v on a full disk, want errors", err, s.Ping(t.Context()))
	}
	if _, err := s.Execution(t.Context(), stored.ID); err != nil {
		t.Errorf("Execution() = %v for an execution that was stored before the disk was full, want no error", err)
	}
	for err = nil; err == nil; { // fill the write-ahead log until even the smallest change does not fit
		err = s.UpdateSandbox(r.ID, "name", created)
	}
	used := created.Add(time.Hour)
	s.SetUsed(map[sandbox.ID]time.Time{r.ID: used})
	s.SetSaved(r.ID, created)
	s.SetSaved(r.ID, used)
	for range 2 {
		// Flush must return nil although the deferred changes fail, because Flush waits for an empty change of its
		// own, which succeeds.
		if err := s.Flush(); err != nil {
			t.Errorf("Flush() = %v, want no error", err)
		}
	}
	if err := s.TerminateSandbox(other.ID, store.Termination{Cause: store.CauseDeleted, Reason: "it was deleted", Time: time.Now()}); err != nil {
		t.Errorf("TerminateSandbox() on a full disk = %v, want no error", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	addExecution(t, s, r.ID, "")
	time.Sleep(5 * time.Second) // longer than the interval at which the store retries
	synctest.Wait()
	got, err := s.Sandbox(t.Context(), r.ID)
	if err != nil || !got.UsedTime.Equal(used) || !got.SavedTime.Equal(used) {
		t.Fatalf("the sandbox was used at %v and saved at %v, %v; want %v twice, from the last deferred changes that failed on the full disk", got.UsedTime, got.SavedTime, err, used)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Errorf("Ping() = %v after space was freed, want no error", err)
	}
	if info, err := os.Stat(filepath.Join(dir, "x.db.reserve")); err != nil || info.Size() == 0 {
		t.Errorf("%v, want a reserve for the next time", err)
	}
}

// fillDisk writes a file until the disk has no free byte, and returns the file's path.
func fillDisk(t *testing.T, dir string) string {
	t.Helper()
	filler := filepath.Join(dir, "filler")
	f, err := os.OpenFile(filler, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; size /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
	}
	return filler
}

// TestReserveAllowsOpenOnFullDisk checks that a database with a reserve can be opened on a full disk, and that a
// sandbox in it can be terminated. Without a reserve, the error of Open reports a full disk, and not a damaged
// database.
func TestReserveAllowsOpenOnFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=3m"); err != nil {
		t.Skipf("NOT TESTED: a small file system cannot be mounted: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	path := filepath.Join(dir, "x.db")
	s := openStore(t, path)
	r := addRunning(t, s, newRecord(200_001))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	fillDisk(t, dir)
	s = openStore(t, path)
	if err := s.TerminateSandbox(r.ID, store.Termination{Cause: store.CauseDeleted, Reason: "it was deleted", Time: time.Now()}); err != nil {
		t.Errorf("TerminateSandbox() on a full disk = %v, want no error", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path + ".reserve"); err != nil {
		t.Fatal(err)
	}
	fillDisk(t, dir)
	_, err := store.Open(t.Context(), path, slog.New(slog.DiscardHandler))
	if err == nil || !store.IsFull(err) || !strings.Contains(err.Error(), "its disk is full") || strings.Contains(err.Error(), "damaged") {
		t.Errorf("Open() without a reserve = %v, want an error that reports a full disk", err)
	}
}
