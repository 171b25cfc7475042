//go:build linux

package gvisor_test

import (
	"bytes"
	"debug/elf"
	"os"
	"path/filepath"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/rootfs"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/bundle"
)

// otherBuild returns the path of a copy of runsc with a changed build id.
func otherBuild(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(runsc(t))
	if err != nil {
		t.Fatal(err)
	}
	program, err := elf.NewFile(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	note := program.Section(".note.go.buildid")
	if note == nil {
		t.Fatal("runsc has no build id: the Go linker writes one")
	}
	text[note.Offset+note.Size-8] ^= 1
	path := filepath.Join(t.TempDir(), "runsc")
	if err := os.WriteFile(path, text, 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestASandboxKeepsItsRunsc checks that a sandbox keeps the runsc that it was created with, even if runsc is upgraded
// or the original program is overwritten.
func TestASandboxKeepsItsRunsc(t *testing.T) {
	image, dir := anyImage(t), tempDir(t)
	old := otherBuild(t)
	with := func(program string) *gvisor.Engine {
		t.Helper()
		e, err := gvisor.New(t.Context(), gvisor.Config{Dir: dir, Bundle: bundle.Bundle{}, Runsc: program, WithoutCgroups: os.Geteuid() != 0})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { e.Close() })
		return e
	}
	builds := func(want int) {
		t.Helper()
		if have, _ := filepath.Glob(filepath.Join(dir, "bin", "*")); len(have) != want {
			t.Errorf("there are %q, want %d", have, want)
		}
	}
	e := with(old)
	programs, _ := filepath.Glob(filepath.Join(dir, "bin", "*"))
	images, err := rootfs.DefaultDir()
	if err != nil || len(programs) != 1 {
		t.Fatalf("the programs are %q, %v", programs, err)
	}
	// Remove the copy of runsc in the folder that all homes share. Only this test uses that build.
	t.Cleanup(func() {
		if err := os.Remove(filepath.Join(images, "bin", filepath.Base(programs[0]))); err != nil {
			t.Error(err)
		}
	})
	s := spec(image)
	create(t, e, s)
	python(t, e, s.ID, "x = 1")
	if err := e.Suspend(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	// Overwrite the original program in place, as `cp` does.
	if err := os.WriteFile(old, []byte("another"), 0o700); err != nil {
		t.Fatal(err)
	}
	e = with(runsc(t))
	builds(2)
	if err := e.Resume(t.Context(), s.ID); err != nil {
		t.Fatalf("Resume: %v", err)
	}
	if got := python(t, e, s.ID, "print(x)"); got != "1" {
		t.Errorf("x = %s, want 1", got)
	}
	if err := e.Remove(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	with(runsc(t))
	builds(1)
}
