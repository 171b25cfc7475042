//go:build linux

package workspace

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// open returns a workspace in a new folder, in which everything is done with the test's own rights. The tests of package
// supervisor use the rights of the kernels' user.
func open(t *testing.T) (w *Workspace, dir string) {
	t.Helper()
	dir = t.TempDir()
	w, err := Open(dir, 64*sandbox.MiB, func(f func() error) error { return f() })
	if err != nil {
		t.Fatal(err)
	}
	return w, dir
}

func TestPartsOfFiles(t *testing.T) {
	w, _ := open(t)
	f, err := w.Write("a/b/file", strings.NewReader("0123456789"))
	if err != nil || f.Path != "a/b/file" || f.Size != 10 || f.ModTime.IsZero() {
		t.Fatalf("Write() = %+v, %v, want a/b/file with 10 bytes and a time", f, err)
	}
	for _, test := range []struct {
		offset, length int64
		want           string
	}{
		{0, -1, "0123456789"}, {0, 3, "012"}, {8, -1, "89"}, {8, 5, "89"}, {10, -1, ""}, {10, 1, ""}, {4, 0, ""},
	} {
		part, err := w.OpenPart("a/b/file", test.offset, test.length)
		if err != nil {
			t.Fatalf("OpenPart(%d, %d): %v", test.offset, test.length, err)
		}
		var got bytes.Buffer
		err = errors.Join(part.CopyTo(&got), part.Close())
		if err != nil || got.String() != test.want || part.FileSize != 10 || part.Length != int64(len(test.want)) {
			t.Errorf("part at %d of length %d = %q, %v, with the sizes %d and %d, want %q", test.offset, test.length, got.String(), err, part.FileSize, part.Length, test.want)
		}
	}
	if _, err := w.OpenPart("a/b/file", 11, -1); sandbox.KindOf(err) != sandbox.Invalid {
		t.Errorf("OpenPart() beyond the end = %v, want invalid", err)
	}
}

// TestFileThatShrinksWhileItIsRead checks that CopyTo returns an error instead of a shorter part.
func TestFileThatShrinksWhileItIsRead(t *testing.T) {
	w, dir := open(t)
	if _, err := w.Write("file", strings.NewReader("0123456789")); err != nil {
		t.Fatal(err)
	}
	part, err := w.OpenPart("file", 2, 6)
	if err != nil {
		t.Fatal(err)
	}
	defer part.Close()
	if err := os.Truncate(filepath.Join(dir, "file"), 4); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := part.CopyTo(&got); !errors.Is(err, io.ErrUnexpectedEOF) || got.String() != "23" {
		t.Errorf("CopyTo() = %q, %v, want 23 and %v", got.String(), err, io.ErrUnexpectedEOF)
	}
}

// TestLinksAreNotFollowed checks that a link is followed neither in the middle of a path nor at its end.
func TestLinksAreNotFollowed(t *testing.T) {
	w, dir := open(t)
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"folder": outside, "file": secret, "up": ".."} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []sandbox.Path{"folder/secret", "file", "up/x", "folder"} {
		if _, err := w.OpenPart(name, 0, -1); sandbox.KindOf(err) != sandbox.Invalid {
			t.Errorf("OpenPart(%s) = %v, want invalid", name, err)
		}
	}
	for _, name := range []sandbox.Path{"folder/new", "folder/deep/new", "up/new"} {
		if _, err := w.Write(name, strings.NewReader("new")); sandbox.KindOf(err) != sandbox.Invalid {
			t.Errorf("Write(%s) = %v, want invalid", name, err)
		}
	}
	// Write replaces a link at the end of a path, and leaves its target.
	if _, err := w.Write("file", strings.NewReader("own")); err != nil {
		t.Errorf("Write(file): %v", err)
	}
	if got, err := os.ReadFile(secret); string(got) != "secret" {
		t.Errorf("the link's target contains %q, %v, want secret", got, err)
	}
	if names, err := os.ReadDir(outside); len(names) != 1 {
		t.Errorf("the folder outside contains %v, %v, want secret alone", names, err)
	}
}

// TestFailedUploadLeavesNothing checks that a file appears only when its upload has ended, that a running upload is in no
// list, and that a failed upload leaves no file.
func TestFailedUploadLeavesNothing(t *testing.T) {
	w, dir := open(t)
	failed := errors.New("the connection ended")
	wantEmpty := func(when string) {
		t.Helper()
		if files, omitted := w.List(); len(files) != 0 || len(omitted) != 0 {
			t.Errorf("%s, List() = %+v, %+v, want nothing", when, files, omitted)
		}
	}
	body := io.MultiReader(strings.NewReader("the beginning"), readerFunc(func([]byte) (int, error) {
		wantEmpty("during the upload")
		return 0, failed
	}))
	if _, err := w.Write("file", body); !errors.Is(err, failed) {
		t.Errorf("Write() = %v, want %v", err, failed)
	}
	wantEmpty("after the failed upload")
	if names, err := os.ReadDir(dir); len(names) != 0 {
		t.Errorf("the folder contains %v, %v, want nothing", names, err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestChanges(t *testing.T) {
	w, dir := open(t)
	write := func(name sandbox.Path, content string) {
		t.Helper()
		if _, err := w.Write(name, strings.NewReader(content)); err != nil {
			t.Fatal(err)
		}
	}
	write("same", "x")
	write("changed", "x")
	write("removed", "x")
	before := w.Scan()
	write("changed", "y")
	write("folder/new", "new")
	write("__pycache__/ignored", "x")
	if err := errors.Join(os.Remove(filepath.Join(dir, "removed")), os.Symlink("same", filepath.Join(dir, "link")), os.MkdirAll(filepath.Join(dir, strings.Repeat("d/", maxDepth+1)), 0o755)); err != nil {
		t.Fatal(err)
	}
	files, omitted := w.Changes(before)
	var got []string
	for _, f := range files {
		got = append(got, fmt.Sprintf("%s %d %.8s", f.Path, f.Size, f.SHA256))
	}
	for _, f := range omitted {
		got = append(got, f.Path+": "+f.Reason)
	}
	deep := strings.TrimSuffix(strings.Repeat("d/", maxDepth), "/")
	if want := []string{"changed 1 a1fce436", "folder/new 3 11507a0e", deep + ": this folder is too deep: its files are not listed", "link: it is a symbolic link"}; !slices.Equal(got, want) {
		t.Errorf("Changes() = %q, want %q", got, want)
	}
	if files, omitted := w.Changes(w.Scan()); files != nil || omitted != nil {
		t.Errorf("Changes() without a change = %+v, %+v, want none", files, omitted)
	}
}
