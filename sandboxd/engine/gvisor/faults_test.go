//go:build linux

package gvisor_test

import (
	"archive/tar"
	"context"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/enginetest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/rootfs/rootfstest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/bundle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestCheckpointOnAFullDisk checks that if a checkpoint fails on a full disk, the older checkpoint stays. It also
// checks that if a resume fails on a full disk, the sandbox stays suspended, and can be resumed when there is space.
func TestCheckpointOnAFullDisk(t *testing.T) {
	image, dir := anyImage(t), tempDir(t)
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=260m"); err != nil {
		missing(t, "runsc", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	e := openPacking(t, dir, 50*time.Millisecond)
	s := spec(image)
	create(t, e, s)
	python(t, e, s.ID, "x = 1")
	if err := e.Checkpoint(t.Context(), s.ID); err != nil {
		t.Fatalf("the first Checkpoint, which fits on the disk: %v", err)
	}
	python(t, e, s.ID, "import os; block = os.urandom(200 << 20); x = 2")
	if err := e.Checkpoint(t.Context(), s.ID); sandbox.KindOf(err) != sandbox.Unavailable {
		t.Errorf("Checkpoint on a full disk = %v, want unavailable", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "sandboxes", "*", "checkpoint*")); len(left) > 0 {
		t.Errorf("the failed checkpoint has left %q, want nothing", left)
	}
	if got := python(t, e, s.ID, "print(x, len(block))"); got != "2 209715200" {
		t.Errorf("the sandbox prints %q after the failed checkpoint, want 2 209715200", got)
	}
	kill(t, e, s.ID)
	if err := e.Resume(t.Context(), s.ID); err != nil {
		t.Fatalf("Resume: %v", err)
	}
	if got := python(t, e, s.ID, "print(x)"); got != "1" {
		t.Errorf("x = %s, want 1", got)
	}
	if err := e.Suspend(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	awaitPacked(t, dir, s.ID)
	full := filepath.Join(dir, "full")
	if err := fill(full); err != nil {
		t.Fatal(err)
	}
	if err := e.Resume(t.Context(), s.ID); sandbox.KindOf(err) != sandbox.Unavailable {
		t.Errorf("Resume on a full disk = %v, want unavailable", err)
	}
	wantNothingRuns(t, e, s.ID)
	if err := os.Remove(full); err != nil {
		t.Fatal(err)
	}
	if err := e.Resume(t.Context(), s.ID); err != nil {
		t.Fatalf("Resume: %v", err)
	}
	if got := python(t, e, s.ID, "print(x)"); got != "1" {
		t.Errorf("x = %s, want 1", got)
	}
}

// fill writes a file that takes all free space of the disk.
func fill(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	for block := make([]byte, 1<<20); len(block) > 0; {
		if _, err := file.Write(block); err != nil {
			block = block[:len(block)/2]
		}
	}
	return file.Close()
}

// TestABlockedKernelIsSuspended checks that if a sandbox is suspended during an execution, the execution continues
// after the resume, in C code as well as in Python code.
func TestABlockedKernelIsSuspended(t *testing.T) {
	t.Parallel()
	image := anyImage(t)
	e := open(t, tempDir(t), bundle.Bundle{})
	s := spec(image)
	create(t, e, s)
	python(t, e, s.ID, "import hashlib, subprocess, time")
	for name, code := range map[string]string{
		"in C":                "print(len(hashlib.pbkdf2_hmac('sha256', b'a', b'b', 6_000_000)))",
		"in C, with the lock": "print(32 if 3 ** 10_000_000 % 7 else 0)",
		"in time.sleep":       "time.sleep(3); print(32)",
		"waiting for a child": "print(subprocess.run(['sh', '-c', 'sleep 3; echo 32'], capture_output=True, text=True).stdout)",
	} {
		t.Run(name, func(t *testing.T) {
			client := guest.NewClient(func(ctx context.Context) (net.Conn, error) { return e.Dial(ctx, s.ID) })
			defer client.Close()
			id, seconds := sandbox.NewExecutionID(), 120
			got, err := client.Execute(t.Context(), id, sandbox.ExecuteRequest{Code: code, Language: sandbox.Python, TimeoutSeconds: &seconds, WaitSeconds: 0.5})
			if err != nil || got.State != sandbox.ExecRunning {
				t.Fatalf("Execute = %+v, %v, want it running", got, err)
			}
			for range 2 {
				if err := e.Suspend(t.Context(), s.ID); err != nil {
					t.Fatalf("Suspend: %v", err)
				}
				if err := e.Resume(t.Context(), s.ID); err != nil {
					t.Fatalf("Resume: %v", err)
				}
			}
			again := guest.NewClient(func(ctx context.Context) (net.Conn, error) { return e.Dial(ctx, s.ID) })
			defer again.Close()
			got, err = again.Execution(t.Context(), id, 60, sandbox.Window{})
			if err != nil || got.State != sandbox.ExecSucceeded || len(got.Events) == 0 || got.Events[0].Text[:2] != "32" {
				t.Errorf("Execution = %+v, %v, want it succeeded with the output 32", got, err)
			}
		})
	}
}

// TestRemoveDuringResume checks that Remove removes a sandbox at any moment of a concurrent Resume.
func TestRemoveDuringResume(t *testing.T) {
	image, dir := anyImage(t), tempDir(t)
	e := open(t, dir, bundle.Bundle{})
	for i := range 5 {
		s := spec(image)
		create(t, e, s)
		if err := e.Suspend(t.Context(), s.ID); err != nil {
			t.Fatal(err)
		}
		var group sync.WaitGroup
		group.Go(func() {
			if err := e.Resume(t.Context(), s.ID); err != nil && sandbox.KindOf(err) != sandbox.NotFound {
				t.Errorf("Resume: %v", err)
			}
		})
		time.Sleep(time.Duration(i) * 30 * time.Millisecond) // call Remove at a different moment of the resume each time
		if err := e.Remove(t.Context(), s.ID); err != nil {
			t.Errorf("Remove: %v", err)
		}
		group.Wait()
		wantNothingRuns(t, e, s.ID)
		if list, err := e.List(t.Context()); err != nil || len(list) > 0 {
			t.Errorf("List() = %+v, %v, want nothing", list, err)
		}
	}
}

// TestSuspendedSandboxKeepsItsImage checks that a suspended sandbox keeps its image when another image gets the same
// name. It also checks that Resume returns an error of kind unavailable if the sandbox's image is missing, and succeeds
// when the image is back.
func TestSuspendedSandboxKeepsItsImage(t *testing.T) {
	e, images := openPulling(t)
	load := func(img v1.Image) string {
		t.Helper()
		path := filepath.Join(tempDir(t), "image.tar")
		if err := rootfstest.Save(path, img); err != nil {
			t.Fatal(err)
		}
		before, _ := filepath.Glob(filepath.Join(images, "*", "rootfs"))
		if _, err := e.LoadImage(t.Context(), path, "own:1"); err != nil {
			t.Fatal(err)
		}
		after, _ := filepath.Glob(filepath.Join(images, "*", "rootfs"))
		for _, root := range after {
			if len(before) == 0 || root != before[0] {
				return root
			}
		}
		t.Fatal("no image was unpacked")
		return ""
	}
	first := load(rootfstest.TwoLayers(t))
	s := spec("own:1")
	create(t, e, s)
	if err := e.Suspend(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	load(rootfstest.Image(t, []tar.Header{{Name: "another", Typeflag: tar.TypeReg, Mode: 0o644}}))
	if err := e.Resume(t.Context(), s.ID); err != nil {
		t.Fatalf("Resume: %v", err)
	}
	if err := e.Suspend(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(first, first+".gone"); err != nil {
		t.Fatal(err)
	}
	if err := e.Resume(t.Context(), s.ID); sandbox.KindOf(err) != sandbox.Unavailable {
		t.Errorf("Resume without the image = %v, want unavailable", err)
	}
	if err := os.Rename(first+".gone", first); err != nil {
		t.Fatal(err)
	}
	if err := e.Resume(t.Context(), s.ID); err != nil {
		t.Errorf("Resume: %v", err)
	}
}

// TestGigabyteSandboxIsSuspendedAndResumed checks that a sandbox with a gigabyte of data can be suspended and resumed.
// The test is slow, and runs only if DORMOUSE_TEST_SLOW is set.
func TestGigabyteSandboxIsSuspendedAndResumed(t *testing.T) {
	enginetest.Slow(t)
	image, dir := anyImage(t), tempDir(t)
	e := openPacking(t, dir, time.Second)
	s := spec(image)
	s.Limits.MemoryBytes = 2048 * sandbox.MiB
	create(t, e, s)
	python(t, e, s.ID, `import random, zlib
block = bytearray()
for i in range(1024): block += random.Random(i).randbytes(1 << 19) + bytes([i % 251]) * (1 << 19)
sum = zlib.crc32(block)`)
	for _, packed := range []bool{false, true} {
		began := time.Now()
		if err := e.Suspend(t.Context(), s.ID); err != nil {
			t.Fatalf("Suspend: %v", err)
		}
		t.Logf("suspend: %v", time.Since(began))
		if packed {
			awaitPacked(t, dir, s.ID)
		}
		t.Logf("on disk: %d MB", onlyContainer(t, e).StateBytes>>20)
		began = time.Now()
		if err := e.Resume(t.Context(), s.ID); err != nil {
			t.Fatalf("Resume: %v", err)
		}
		t.Logf("resume: %v", time.Since(began))
		if got := python(t, e, s.ID, "print(len(block) >> 20, zlib.crc32(block) == sum)"); got != "1024 True" {
			t.Errorf("the sandbox prints %q after the resume, want 1024 True", got)
		}
	}
}
