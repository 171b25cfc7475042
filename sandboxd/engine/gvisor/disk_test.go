//go:build linux

package gvisor_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/rootfs/rootfstest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/bundle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestSuspendOnAFullDisk checks that if a suspend fails on a full disk, the sandbox keeps running, and no incomplete
// checkpoint is left.
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

// onDisk mounts a tmpfs of the given size at the folder dir, and unmounts it at the end of the test.
func onDisk(t *testing.T, dir, size string) {
	t.Helper()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size="+size); err != nil {
		missing(t, "runsc", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// wantFull fails the test unless err is of kind unavailable and its message names the full disk and does not mention
// gVisor. The parameter what is the name of the operation that failed, and where is a text that the message must
// contain.
func wantFull(t *testing.T, what string, err error, where string) {
	t.Helper()
	said := sandbox.Public(err).Message
	if sandbox.KindOf(err) != sandbox.Unavailable || !strings.Contains(said, "is full") || !strings.Contains(said, where) || strings.Contains(said, "gVisor") {
		t.Errorf("%s on a full disk: %s: %q, want unavailable, because the disk with the %s is full", what, sandbox.KindOf(err), said, where)
	}
}

// TestAFullDiskIsNamed checks that if an operation fails because a disk is full, its error names the disk as the cause.
func TestAFullDiskIsNamed(t *testing.T) {
	image, dir := anyImage(t), tempDir(t)
	onDisk(t, dir, "300m")
	e := openPacking(t, dir, 50*time.Millisecond)
	running, packed, snapshot := spec(image), spec(image), spec(image)
	create(t, e, running)
	python(t, e, running.ID, "x = 1")
	create(t, e, packed)
	if err := e.Suspend(t.Context(), packed.ID); err != nil {
		t.Fatal(err)
	}
	awaitPacked(t, dir, packed.ID)
	if err := e.Snapshot(t.Context(), snapshot, func(context.Context) error { return nil }); err != nil {
		t.Fatal(err)
	}
	full := filepath.Join(dir, "full")
	if err := fill(full); err != nil {
		t.Fatal(err)
	}
	fromSnapshot, other := spec(image), spec(image)
	other.Limits.MemoryBytes /= 2
	for what, do := range map[string]func() error{
		"Create":     func() error { return e.Create(t.Context(), other) },
		"Start":      func() error { _, err := e.Start(t.Context(), fromSnapshot); return err },
		"Fork":       func() error { return e.Fork(t.Context(), running.ID, sandbox.NewID()) },
		"Checkpoint": func() error { return e.Checkpoint(t.Context(), running.ID) },
		"Suspend":    func() error { return e.Suspend(t.Context(), running.ID) },
		"Resume":     func() error { return e.Resume(t.Context(), packed.ID) },
		"Snapshot":   func() error { return e.Snapshot(t.Context(), other, func(context.Context) error { return nil }) },
	} {
		t.Run(what, func(t *testing.T) { wantFull(t, what, do(), "home") })
	}
	if err := os.Remove(full); err != nil {
		t.Fatal(err)
	}
	if started, err := e.Start(t.Context(), fromSnapshot); !started || err != nil {
		t.Errorf("Start = %v, %v after disk space was freed, want true, because the snapshot is intact", started, err)
	}
	removeLater(t, e, fromSnapshot.ID)
	if got := python(t, e, running.ID, "print(x)"); got != "1" {
		t.Errorf("x = %s, want 1", got)
	}
	removeLater(t, e, packed.ID)
}

func TestAFullDiskOfTheImageCacheIsNamed(t *testing.T) {
	anyImage(t)
	images := tempDir(t)
	onDisk(t, images, "120m")
	e, err := gvisor.New(t.Context(), gvisor.Config{Dir: tempDir(t), Images: images, Runsc: runsc(t), WithoutCgroups: os.Geteuid() != 0})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	path := filepath.Join(tempDir(t), "image.tar")
	if err := rootfstest.Save(path, rootfstest.TwoLayers(t)); err != nil {
		t.Fatal(err)
	}
	if err := fill(filepath.Join(images, "full")); err != nil {
		t.Fatal(err)
	}
	_, err = e.LoadImage(t.Context(), path, "own:1")
	wantFull(t, "LoadImage", err, "image cache")
	err = e.ImportImage(t.Context(), largeTar(t, 1<<20), "own:2")
	wantFull(t, "ImportImage", err, "image cache")
}

// largeTar returns a tar with one file of size bytes.
func largeTar(t *testing.T, size int) io.Reader {
	t.Helper()
	var text bytes.Buffer
	archive := tar.NewWriter(&text)
	if err := archive.WriteHeader(&tar.Header{Name: "file", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(size)}); err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	return &text
}

// TestAKilledCommandIsNoFullDisk checks that if a checkpoint fails because the runsc command was killed, the error does
// not mention the disk.
func TestAKilledCommandIsNoFullDisk(t *testing.T) {
	image, dir := anyImage(t), tempDir(t)
	e := open(t, dir, bundle.Bundle{})
	s := spec(image)
	create(t, e, s)
	python(t, e, s.ID, "import os; block = os.urandom(200 << 20)")
	stop := make(chan struct{})
	go killCommand(dir, "checkpoint", 0, stop)
	err := e.Checkpoint(t.Context(), s.ID)
	close(stop)
	if err == nil || strings.Contains(sandbox.Public(err).Message, "disk") {
		t.Errorf("Checkpoint = %v, want an error that does not name the disk", err)
	}
}
