//go:build linux

package gvisor_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/bundle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// A sandbox that finds no room to sleep stays awake, and leaves no half of itself.
func TestSuspendOnAFullDisk(t *testing.T) {
	image, dir := anyImage(t), tempDir(t)
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=200m"); err != nil {
		missing(t, "runsc", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	e := open(t, dir, bundle.Bundle{})
	s := spec(image)
	create(t, e, s)
	python(t, e, s.ID, "import os; block = os.urandom(150 << 20); x = 1")
	if err := e.Suspend(t.Context(), s.ID); sandbox.KindOf(err) != sandbox.Unavailable {
		t.Fatalf("Suspend = %v, want unavailable", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "sandboxes", "*", "checkpoint*")); len(left) > 0 {
		t.Errorf("%q are left", left)
	}
	if got := python(t, e, s.ID, "print(x, len(block))"); got != "1 157286400" {
		t.Errorf("it printed %q", got)
	}
	python(t, e, s.ID, "del block")
	if err := e.Suspend(t.Context(), s.ID); err != nil {
		t.Fatalf("Suspend of what is small: %v", err)
	}
	if err := e.Resume(t.Context(), s.ID); err != nil {
		t.Fatalf("Resume: %v", err)
	}
	if got := python(t, e, s.ID, "print(x)"); got != "1" {
		t.Errorf("it printed %q", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "sandboxes", string(s.ID), "checkpoint")); err == nil {
		t.Error("the checkpoint of a running sandbox is left")
	}
}
