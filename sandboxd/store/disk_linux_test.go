package store_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// A full disk is an error that says so, loses nothing, and is over when there is room again. Room can be made: a
// sandbox ends.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=3m"); err != nil {
		t.Skipf("NOT TESTED: a small file system cannot be mounted: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	s := open(t, filepath.Join(dir, "x.db"))
	r, other := add(t, s, record(200_001)), add(t, s, record(200_002))
	stored := accept(t, s, r.ID, "")
	filler := filepath.Join(dir, "filler")
	for size := 1 << 20; size > 0; size /= 2 { // to the last page
		f, err := os.OpenFile(filler, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err == nil {
			_, _ = f.Write(make([]byte, size))
			_ = f.Close()
		}
	}
	var err error
	for range 1000 {
		if err = s.AddExecution(store.Execution{Execution: sandbox.Execution{ID: sandbox.NewExecutionID(), SandboxID: r.ID, Reason: strings.Repeat("x", 4000)}}); err != nil {
			break
		}
	}
	if err == nil || errors.Is(err, store.ErrEnded) || s.Ping(t.Context()) == nil {
		t.Fatalf("AddExecution() = %v, Ping() = %v on a full disk, want errors", err, s.Ping(t.Context()))
	}
	if _, err := s.Execution(t.Context(), stored.ID); err != nil {
		t.Errorf("Execution() = %v, want what was stored before", err)
	}
	if err := s.EndSandbox(other.ID, store.End{Cause: store.CauseDeleted, Reason: "it was deleted", Time: time.Now()}); err != nil {
		t.Errorf("EndSandbox() = %v on a full disk", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	accept(t, s, r.ID, "")
	if err := s.Ping(t.Context()); err != nil {
		t.Errorf("Ping() = %v when there is room again", err)
	}
	if info, err := os.Stat(filepath.Join(dir, "x.db.reserve")); err != nil || info.Size() == 0 {
		t.Errorf("%v, want room kept for the next time", err)
	}
}
