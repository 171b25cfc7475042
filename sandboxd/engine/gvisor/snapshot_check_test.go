package gvisor

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/checkpoint"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestASnapshotThatIsMadeAgainIsCheckedAgain checks that the files of a snapshot are read and checked only once, and are
// checked again after another snapshot was made at the same path.
func TestASnapshotThatIsMadeAgainIsCheckedAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "checkpoint")
	file := filepath.Join(dir, "memory")
	save := func() checkpoint.Manifest {
		t.Helper()
		err := checkpoint.Save(dir, checkpoint.New(folder.Record{}, nil), func() error {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return err
			}
			return os.WriteFile(file, []byte("the memory"), 0o600)
		})
		if err != nil {
			t.Fatal(err)
		}
		m, err := checkpoint.Read(dir)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	damage := func() {
		t.Helper()
		if err := os.WriteFile(file, []byte("the mEmory"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var s snapshots
	m := save()
	if err := s.check(m, dir); err != nil {
		t.Fatal(err)
	}
	damage()
	if err := s.check(m, dir); err != nil {
		t.Errorf("check() = %v for a snapshot that was checked, want nil without reading it again", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	m = save()
	damage()
	if err := s.check(m, dir); sandbox.KindOf(err) != sandbox.Expired {
		t.Errorf("check() = %v for a damaged snapshot at the path of an intact one, want an expired error", err)
	}
}
