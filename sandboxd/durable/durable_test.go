package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/durable"
)

func TestWritesReplaceTheWholeFile(t *testing.T) {
	for name, write := range map[string]func(string, []byte, fs.FileMode) error{"WriteFile": durable.WriteFile, "Replace": durable.Replace} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			for _, text := range []string{"a long first content", "short"} {
				if err := write(path, []byte(text), 0o600); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				wantOnly(t, path, text)
			}
		})
	}
}

func TestCreateKeepsAnExistingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := durable.Create(path, []byte("first"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := durable.Create(path, []byte("second"), 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create of a file that exists = %v, want fs.ErrExist", err)
	}
	wantOnly(t, path, "first")
}

func TestAFailedWriteLeavesNoTemporaryFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "folder")
	if err := os.MkdirAll(filepath.Join(path, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(path, []byte("text"), 0o600); err == nil {
		t.Error("WriteFile to the path of a folder that is not empty = nil, want an error")
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("the parent folder contains %v, want only the folder", entries)
	}
}

func TestRenameMovesTheFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "making"), []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := durable.Rename(filepath.Join(dir, "making"), filepath.Join(dir, "made")); err != nil {
		t.Fatal(err)
	}
	wantOnly(t, filepath.Join(dir, "made"), "text")
}

// wantOnly fails the test unless a file has this content and the mode 0600, and is the only file in its folder.
func wantOnly(t *testing.T, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("the file has %q, %v, want %q", got, err, want)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v, want mode 0600", info.Mode(), err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("the folder contains %v, want only the file", entries)
	}
}
