//go:build linux

package gvisor_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/bundle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// damages are the ways in which a power cut, a failing disk or a person can damage a file. Each function gets the
// file's content and the content of the same file of another sandbox, and returns the new content, or nil to remove
// the file.
var damages = map[string]func(own, others []byte) []byte{
	"missing":         func(_, _ []byte) []byte { return nil },
	"empty":           func(_, _ []byte) []byte { return []byte{} },
	"torn":            func(own, _ []byte) []byte { return own[:len(own)/2] },
	"garbage":         func(own, _ []byte) []byte { return bytes.Repeat([]byte{0, '.', '/', 0xff}, max(len(own), 8)/4) },
	"another's":       func(_, others []byte) []byte { return others },
	"an empty object": func(_, _ []byte) []byte { return []byte("{}\n") },
}

// damage damages a file in the folder of the sandbox id. The parameter other is the sandbox whose file of the same name
// may replace it, and how is a key of damages.
func damage(t *testing.T, dir string, id, other sandbox.ID, file, how string) {
	t.Helper()
	path := filepath.Join(dir, "sandboxes", string(id), file)
	own, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	others, err := os.ReadFile(filepath.Join(dir, "sandboxes", string(other), file))
	if err != nil {
		t.Fatal(err)
	}
	content := damages[how](own, others)
	if content == nil {
		err = os.Remove(path)
	} else {
		err = os.WriteFile(path, content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// inAPooledSandbox creates a sandbox that runs in a pooled sandbox and has a fallback checkpoint. Such a sandbox has
// every file that a running sandbox can have.
func inAPooledSandbox(t *testing.T, e *gvisor.Engine, dir, image string) sandbox.ID {
	t.Helper()
	s := spec(image)
	create(t, e, s)
	python(t, e, s.ID, "x = 42")
	suspendAndResume(t, e, s.ID)
	var seen []string
	for range 5 {
		seen = append(seen, ready(t, e, seen...)) // if the sandbox does not use this pooled sandbox, the next iteration waits for another pooled sandbox
		if suspendAndResume(t, e, s.ID); taken(dir, s.ID) != "" {
			return s.ID
		}
	}
	t.Fatal("the sandbox does not run in a pooled sandbox")
	return ""
}

// wantNeighbour fails the test unless a sandbox runs and its variable x is 42.
func wantNeighbour(t *testing.T, e *gvisor.Engine, id sandbox.ID) {
	t.Helper()
	if c := find(t, e, id); !c.Running {
		t.Fatalf("the neighbour is %+v, want it running", c)
	}
	if got := python(t, e, id, "print(x)"); got != "42" {
		t.Errorf("the neighbour printed %q, want 42", got)
	}
}

// find returns the entry of the sandbox id in the result of List.
func find(t *testing.T, e *gvisor.Engine, id sandbox.ID) engine.Container {
	t.Helper()
	list, err := e.List(t.Context())
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	i := slices.IndexFunc(list, func(c engine.Container) bool { return c.ID == id })
	if i < 0 {
		t.Fatalf("List() = %+v, want %s in it", list, id)
	}
	return list[i]
}

// TestADamagedFileHarmsNoOtherSandbox checks that after a power cut that damages any file of a sandbox, the engine can
// be opened, List returns the damaged sandbox with the reason, and Remove removes it. It also checks that another
// sandbox, the neighbour, keeps running.
func TestADamagedFileHarmsNoOtherSandbox(t *testing.T) {
	t.Parallel()
	image, dir := anyImage(t), tempDir(t)
	before := open(t, dir, bundle.Bundle{})
	neighbour, original := inAPooledSandbox(t, before, dir, image), inAPooledSandbox(t, before, dir, image)
	kill(t, before, original) // a power cut would also end the processes of the sandbox
	folder := filepath.Join(dir, "sandboxes", string(original))
	var files []string
	for _, pattern := range []string{"*", "kept/*"} {
		paths, _ := filepath.Glob(filepath.Join(folder, pattern))
		for _, path := range paths {
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
				name, _ := filepath.Rel(folder, path)
				files = append(files, name)
			}
		}
	}
	if len(files) < 7 || !slices.Contains(files, "spare") || !slices.Contains(files, "kept/manifest.json") {
		t.Fatalf("a sandbox has the files %q, want at least 7, with pooled sandbox and kept/manifest.json", files)
	}
	type victim struct{ file, how string }
	victims := map[sandbox.ID]victim{}
	for _, file := range files {
		for how := range damages {
			id := sandbox.NewID()
			victims[id] = victim{file, how}
			clone(t, folder, filepath.Join(dir, "sandboxes", string(id)), string(original), string(id))
			damage(t, dir, id, neighbour, file, how)
		}
	}
	if err := before.Close(); err != nil {
		t.Fatal(err)
	}

	e := open(t, dir, bundle.Bundle{})
	wantNeighbour(t, e, neighbour)
	for id, v := range victims {
		t.Run(fmt.Sprintf("%s/%s", v.file, v.how), func(t *testing.T) {
			c := find(t, e, id)
			necessary := v.file == "record.json" || v.file == "config.json"
			switch {
			case c.Running:
				t.Errorf("the damaged sandbox is %+v, want it not running", c)
			case necessary && v.how != "another's" && (c.Suspended || !strings.Contains(c.Detail, v.file)):
				t.Errorf("the damaged sandbox is %+v, want it lost because of %s", c, v.file)
			case !necessary && !c.Suspended:
				t.Errorf("the damaged sandbox is %+v, want it suspended, because it has a checkpoint", c)
			}
			if necessary || strings.HasPrefix(v.file, "kept/") {
				if err := e.Resume(t.Context(), id); err == nil {
					t.Error("Resume of the damaged sandbox returned no error")
				} else if k := sandbox.KindOf(err); k != sandbox.Expired && k != sandbox.NotFound {
					t.Errorf("Resume = %v, want an expired or not_found error", err)
				}
			}
			if err := e.Remove(t.Context(), id); err != nil {
				t.Errorf("Remove: %v", err)
			}
			if _, err := os.Lstat(filepath.Join(dir, "sandboxes", string(id))); !os.IsNotExist(err) {
				t.Errorf("Remove left the sandbox's folder: Lstat returned %v", err)
			}
		})
	}
	wantNeighbour(t, e, neighbour)
}

// clone copies the folder of a sandbox, and replaces the sandbox's id by newID in the files. The parameters from and to
// are the paths of the original folder and of the copy.
func clone(t *testing.T, from, to, id, newID string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"config.json", "spare", "record.json", "process.json"} {
		path := filepath.Join(to, name)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, bytes.ReplaceAll(text, []byte(id), []byte(newID)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestADamagedFileOfARunningSandboxHarmsNoOther checks that if a file of a running sandbox is damaged and the engine is
// opened again, the sandbox is lost or keeps running, Remove ends its processes, and another sandbox, the neighbour, is
// not affected.
func TestADamagedFileOfARunningSandboxHarmsNoOther(t *testing.T) {
	t.Parallel()
	image, dir := anyImage(t), tempDir(t)
	before := open(t, dir, bundle.Bundle{})
	neighbour := inAPooledSandbox(t, before, dir, image)
	for _, file := range []string{"config.json", "record.json", "process.json", "spare"} {
		for _, how := range []string{"empty", "another's"} {
			t.Run(file+"/"+how, func(t *testing.T) {
				e := open(t, dir, bundle.Bundle{})
				id := inAPooledSandbox(t, e, dir, image)
				damage(t, dir, id, neighbour, file, how)
				e.Close()
				e = open(t, dir, bundle.Bundle{})
				wantNeighbour(t, e, neighbour)
				if c := find(t, e, id); c.Running && how == "empty" && file != "spare" && file != "process.json" {
					t.Errorf("the damaged sandbox is %+v, want it lost because of %s", c, file)
				}
				if err := e.Remove(t.Context(), id); err != nil {
					t.Errorf("Remove: %v", err)
				}
				if left := runscOf(string(id)); len(left) > 0 {
					t.Errorf("the processes %v of the removed sandbox still run", left)
				}
				wantNeighbour(t, e, neighbour)
				e.Close()
				if got := pooledSandboxes(t, dir); len(got) != 1 || got[0] != taken(dir, neighbour) {
					t.Errorf("there are the pooled sandboxes %q, want only the neighbour's", got)
				}
			})
		}
	}
}

func TestDoctorNamesADamagedSandbox(t *testing.T) {
	image, dir := anyImage(t), tempDir(t)
	e := open(t, dir, bundle.Bundle{})
	whole, other := spec(image), spec(image)
	create(t, e, whole)
	create(t, e, other)
	doctor := func() (found engine.Check) {
		t.Helper()
		checks := open(t, dir, nil).Doctor(t.Context(), image) // the doctor command opens a second engine on the folder while a daemon runs
		i := slices.IndexFunc(checks, func(c engine.Check) bool { return c.Name == "sandboxes" })
		if i < 0 {
			t.Fatalf("Doctor() = %+v, want a check of the sandboxes", checks)
		}
		return checks[i]
	}
	if c := doctor(); c.Status != engine.OK {
		t.Errorf("the check of two sandboxes is %+v, want ok", c)
	}
	damage(t, dir, other.ID, whole.ID, "record.json", "empty")
	if c := doctor(); c.Status == engine.OK || !strings.Contains(c.Detail, string(other.ID)) || strings.Contains(c.Detail, string(whole.ID)) {
		t.Errorf("the check is %+v, want it to name %s alone", c, other.ID)
	}
}

// TestDamagedFilesOfTheEngineAreRepaired checks that the engine replaces or removes its own files if they are damaged:
// a suspended sandbox can be resumed, and a new sandbox can be created.
func TestDamagedFilesOfTheEngineAreRepaired(t *testing.T) {
	t.Parallel()
	image, dir := anyImage(t), tempDir(t)
	e := open(t, dir, bundle.Bundle{})
	s := spec(image)
	create(t, e, s)
	python(t, e, s.ID, "x = 42")
	for how, change := range damages {
		t.Run(how, func(t *testing.T) {
			snapshot := spec(image)
			if err := e.Snapshot(t.Context(), snapshot, func(context.Context) error { return nil }); err != nil {
				t.Fatalf("Snapshot: %v", err)
			}
			if err := e.Suspend(t.Context(), s.ID); err != nil {
				t.Fatal(err)
			}
			e.Close()
			files := 0
			for _, pattern := range []string{"bin/*", "guest/*/*", "guest/*/kernels/*/*", "etc/*", "runsc/*", "snapshots/*/*", "snapshots/*/checkpoint/*"} {
				paths, _ := filepath.Glob(filepath.Join(dir, pattern))
				for _, path := range paths {
					own, err := os.ReadFile(path)
					if err != nil {
						continue // path is a folder
					}
					files++
					// Do not overwrite the file in place: a file in bin is a hard link to a file that other homes use.
					if err := os.Remove(path); err != nil {
						t.Fatal(err)
					}
					if text := change(own, []byte("the content of another file")); text != nil {
						if err := os.WriteFile(path, text, 0o700); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			if files < 15 {
				t.Errorf("%d files were damaged, want at least 15", files)
			}
			for _, name := range []string{"", "..not", "spare-", "spare-../../x"} {
				if err := os.MkdirAll(filepath.Join(dir, "spares", "of-nobody-"+strings.ReplaceAll(name, "/", "-")), 0o700); err != nil {
					t.Fatal(err)
				}
			}

			e = open(t, dir, bundle.Bundle{})
			if left := pooledSandboxes(t, dir); len(left) > 0 {
				t.Errorf("the folders %q in spares/ are left, want none", left)
			}
			if err := e.Resume(t.Context(), s.ID); err != nil {
				t.Fatalf("Resume: %v", err)
			}
			wantNeighbour(t, e, s.ID)
			started := spec(image)
			ok, err := e.Start(t.Context(), started)
			if err == nil && !ok {
				err = e.Create(t.Context(), started)
			}
			if err != nil { // Start has detected the damaged snapshot and removed it, so create the sandbox without it
				if err := e.Create(t.Context(), started); err != nil {
					t.Fatalf("Create: %v", err)
				}
			}
			if got := python(t, e, started.ID, "print(6 * 7)"); got != "42" {
				t.Errorf("a new sandbox printed %q, want 42", got)
			}
			if err := e.Remove(t.Context(), started.ID); err != nil {
				t.Error(err)
			}
		})
	}
	removeLater(t, e, s.ID)
}
