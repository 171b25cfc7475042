//go:build linux

package process

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

const testUID = 309_998

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: needs root to act as another user")
	}
}

func TestUIDsOfKernels(t *testing.T) {
	for uid, valid := range map[int]bool{-1: false, 0: false, 1000: true, 199_999: true, unusedUID: false} {
		if _, err := NewUser(uid); (err == nil) != valid {
			t.Errorf("NewUser(%d) = %v, want valid: %t", uid, err, valid)
		}
	}
}

// TestRunAs checks that a function has the rights of the user while RunAs runs it, and that the caller has its own rights
// again afterwards, also after an error.
func TestRunAs(t *testing.T) {
	needRoot(t)
	u, err := NewUser(testUID)
	if err != nil {
		t.Fatal(err)
	}
	closed := filepath.Join(t.TempDir(), "closed")
	if err := os.WriteFile(closed, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		err := u.RunAs(func() error {
			if uid, gid := syscall.Geteuid(), syscall.Getegid(); uid != testUID || gid != testUID {
				t.Errorf("effective ids = %d and %d, want %d", uid, gid, testUID)
			}
			if uid := syscall.Getuid(); uid != 0 {
				t.Errorf("real uid = %d, want 0, so that the user can't signal the guest", uid)
			}
			_, err := os.Open(closed)
			return err
		})
		if !errors.Is(err, fs.ErrPermission) {
			t.Errorf("Open() of a file of root = %v, want no permission", err)
		}
		if f, err := os.Open(closed); err != nil {
			t.Errorf("Open() after RunAs: %v", err)
		} else {
			f.Close()
		}
		if uid, gid := syscall.Geteuid(), syscall.Getegid(); uid != 0 || gid != 0 {
			t.Errorf("effective ids after RunAs = %d and %d, want 0", uid, gid)
		}
	}
}
