package checkpoint

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// save makes a checkpoint with two files in a new folder, and returns its manifest and the content of the larger file.
func save(t *testing.T, dir string) (Manifest, []byte) {
	t.Helper()
	pages := make([]byte, 2*blockBytes+1000) // three blocks, of which the last one is not full
	rand.Read(pages[:blockBytes])
	err := Save(dir, New(folder.Record{Build: "b"}, []byte("config")), func() error {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, pagesFile), pages, 0o600); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, "empty"), nil, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	m, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	return m, pages
}

// pack writes a compressed copy of a checkpoint to a new folder, and returns the manifest of the copy. The parameters from
// and to are the two folders, and m is the manifest of the checkpoint.
func pack(t *testing.T, from, to string, m Manifest) Manifest {
	t.Helper()
	if err := os.Mkdir(to, 0o700); err != nil {
		t.Fatal(err)
	}
	packed, err := m.pack(t.Context(), from, to)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeManifest(to, packed); err != nil {
		t.Fatal(err)
	}
	m, err = Read(to)
	if err != nil || !m.Packed() {
		t.Fatalf("Read() = %+v, %v, want a compressed checkpoint", m, err)
	}
	return m
}

func TestACompressedCheckpointIsRestored(t *testing.T) {
	dir := t.TempDir()
	from, to, again := filepath.Join(dir, "from"), filepath.Join(dir, "to"), filepath.Join(dir, "again")
	m, pages := save(t, from)
	m = pack(t, from, to, m)
	if err := m.Unpack(t.Context(), to, again); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(again, pagesFile))
	if err != nil || !bytes.Equal(got, pages) {
		t.Errorf("the decompressed file has %d bytes, %v, want the %d that were saved", len(got), err, len(pages))
	}
	if info, err := os.Stat(filepath.Join(again, "empty")); err != nil || info.Size() != 0 {
		t.Errorf("the empty file is %v, %v, want it empty", info, err)
	}
	if before, after := Size(from), Size(to); after > before*3/4 {
		t.Errorf("it takes %d bytes instead of %d, want it smaller", after, before)
	}
}

// TestDamageIsDetected checks that a changed bit, a missing part and a missing file make a checkpoint expired, whether it
// is compressed or not.
func TestDamageIsDetected(t *testing.T) {
	for name, damage := range map[string]func(path string, text []byte) error{
		"a bit":     func(path string, text []byte) error { text[len(text)/3] ^= 1; return os.WriteFile(path, text, 0o600) },
		"truncated": func(path string, text []byte) error { return os.Truncate(path, int64(len(text)/2)) },
		"missing":   func(path string, _ []byte) error { return os.Remove(path) },
	} {
		for _, packed := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "checkpoint")
				m, _ := save(t, dir)
				file := pagesFile
				if packed {
					m, dir, file = pack(t, dir, dir+".packed", m), dir+".packed", pagesFile+packedSuffix
				}
				path := filepath.Join(dir, file)
				text, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if err := damage(path, text); err != nil {
					t.Fatal(err)
				}
				check := func() error { return m.Verify(dir) }
				if packed {
					check = func() error { return m.Unpack(t.Context(), dir, dir+".open") }
				}
				if err := check(); sandbox.KindOf(err) != sandbox.Expired {
					t.Errorf("compressed: %t: the check returned %v, want an expired error", packed, err)
				}
			})
		}
	}
}

// TestFailedSaveLeavesNothing checks that Save removes the folder if the checkpoint can't be written or is empty.
func TestFailedSaveLeavesNothing(t *testing.T) {
	for name, write := range map[string]func(dir string) error{
		"an error": func(dir string) error { return errors.Join(os.Mkdir(dir, 0o700), errors.New("killed")) },
		"no files": func(dir string) error { return os.Mkdir(dir, 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "checkpoint")
			if err := Save(dir, Manifest{}, func() error { return write(dir) }); err == nil {
				t.Error("Save returned no error")
			}
			if folder.Exists(dir) {
				t.Error("Save left the folder")
			}
		})
	}
}

// TestACopyBelongsToTheOtherSandbox checks that a copy fits the sandbox it was made for, and that a checkpoint of another
// sandbox is not copied.
func TestACopyBelongsToTheOtherSandbox(t *testing.T) {
	dir := t.TempDir()
	from := filepath.Join(dir, "from")
	m, _ := save(t, from)
	own, other := New(folder.Record{Build: "b"}, []byte("config")), New(folder.Record{Build: "b"}, []byte("another"))
	if err := Copy(from, filepath.Join(dir, "to"), own, other); err != nil {
		t.Fatal(err)
	}
	got, err := Read(filepath.Join(dir, "to"))
	if err != nil || got.Fits(other) != nil || got.Fits(own) == nil || !got.Saved.Equal(m.Saved) {
		t.Errorf("the manifest of the copy is %+v, %v, want one that fits only the other sandbox", got, err)
	}
	if err := Copy(from, filepath.Join(dir, "wrong"), other, own); sandbox.KindOf(err) != sandbox.Expired {
		t.Errorf("Copy = %v for the checkpoint of another sandbox, want an expired error", err)
	}
}

// TestPackerReplacesAnUnchangedCheckpoint checks that the packer replaces a checkpoint by a compressed one, which has the
// same text about how the sandbox ended. It also checks that the packer does not replace a checkpoint that was changed
// while the packer compressed it.
func TestPackerReplacesAnUnchangedCheckpoint(t *testing.T) {
	for name, changed := range map[string]bool{"unchanged": false, "replaced in the meantime": true} {
		t.Run(name, func(t *testing.T) {
			l := folder.Layout{Dir: t.TempDir()}
			if err := l.Make(); err != nil {
				t.Fatal(err)
			}
			id := sandbox.NewID()
			dir := l.Checkpoint(id)
			if err := os.Mkdir(l.Sandbox(id), 0o700); err != nil {
				t.Fatal(err)
			}
			save(t, dir)
			if err := WriteEnd(dir, "was killed"); err != nil {
				t.Fatal(err)
			}
			held := false
			p := NewPacker(l, func(context.Context, sandbox.ID) (func(), error) {
				if changed {
					if err := os.RemoveAll(dir); err != nil {
						t.Error(err)
					}
					save(t, dir)
				}
				held = true
				return func() { held = false }, nil
			})
			p.packAll(t.Context(), -1)
			m, err := Read(dir)
			if err != nil || m.Packed() == changed || held {
				t.Errorf("after packing: compressed: %t, %v, lock held: %t, want compressed: %t and the lock released", m.Packed(), err, held, !changed)
			}
			if how, ok := ReadEnd(dir); !changed && (!ok || how != "was killed") {
				t.Errorf("ReadEnd() = %q, %t, want %q", how, ok, "was killed")
			}
			if folder.Exists(l.PackingCheckpoint(id)) {
				t.Error("the packer left its temporary folder")
			}
		})
	}
}
