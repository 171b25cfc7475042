package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestStartsOnFullDisk checks that the daemon, after it was killed or stopped, starts again on a disk without a free byte. It
// must list its sandboxes and delete a sandbox, which frees space for the other sandbox. An execution that ended before the
// restart must still be reported as ended.
func TestStartsOnFullDisk(t *testing.T) {
	for name, sig := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "stopped": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			h := newGvisorHome(t)
			if err := syscall.Mount("tmpfs", h.dir, "tmpfs", 0, "size=400m,mode=700"); err != nil {
				t.Skipf("needs to mount a small file system: %v", err)
			}
			t.Cleanup(func() { // runs before the cleanup that newHome registered, which removes the folder
				h.removeAll()
				h.stop(syscall.SIGTERM)
				_ = syscall.Unmount(h.dir, syscall.MNT_DETACH)
			})
			s := h.connect(t)
			needed, unneeded := s.create(args{}), s.create(args{})
			s.run(needed, "x = 41")
			ran := s.exec(args{"sandbox_id": unneeded, "code": "import time; time.sleep(1); 'over'", "wait_seconds": 0, "request_id": "late"})
			fillDisk(t, h.dir)
			eventually(t, "the code has ended", func() bool {
				return strings.Contains(s.ok("get_execution", args{"execution_id": executionID(t, ran.Text), "wait_seconds": 5}).Text, "succeeded")
			})
			h.stop(sig)
			fillDisk(t, h.dir)

			s = h.connect(t)
			s.contains(s.ok("list_sandboxes", args{}).Text, needed, unneeded)
			s.contains(s.ok("get_sandbox", args{"sandbox_id": unneeded}).Text, "running")
			s.ok("delete_sandbox", args{"sandbox_id": unneeded})
			s.contains(s.ok("get_execution", args{"execution_id": executionID(t, ran.Text)}).Text, "succeeded")
			s.run(needed, "x + 1", "42")
		})
	}
}

// fillDisk writes to a file system until it has no free byte.
func fillDisk(t *testing.T, dir string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "filler"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; size /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
	}
}
