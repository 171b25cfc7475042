//go:build linux

package gvisor_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/bundle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// openPacking opens the engine of the home dir. The engine compresses the checkpoint of each sandbox that is suspended
// for at least the given duration.
func openPacking(t *testing.T, dir string, after time.Duration) *gvisor.Engine {
	t.Helper()
	open(t, tempDir(t), nil) // skips the test if the engine can't work here
	e, err := gvisor.New(t.Context(), gvisor.Config{Dir: dir, Bundle: bundle.Bundle{}, Runsc: runsc(t), CompressAfter: after, WithoutCgroups: os.Geteuid() != 0})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// awaitPacked waits until the checkpoint of a suspended sandbox is compressed.
func awaitPacked(t *testing.T, dir string, id sandbox.ID) {
	t.Helper()
	sandboxDir := filepath.Join(dir, "sandboxes", string(id))
	eventually(t, "the checkpoint in "+sandboxDir+" is compressed", func() bool {
		return !exists(sandboxDir, "checkpoint/pages.img") && exists(sandboxDir, "checkpoint/pages.img.zst") && !exists(sandboxDir, "checkpoint.packing")
	})
}

// awaitPacking waits until the compression of a sandbox's checkpoint has begun.
func awaitPacking(t *testing.T, dir string, id sandbox.ID) {
	t.Helper()
	sandboxDir := filepath.Join(dir, "sandboxes", string(id))
	eventually(t, "the compression of the checkpoint in "+sandboxDir+" begins", func() bool {
		return exists(sandboxDir, "checkpoint.packing") || exists(sandboxDir, "checkpoint/pages.img.zst")
	})
}

func exists(dir, name string) bool {
	_, err := os.Stat(filepath.Join(dir, name))
	return err == nil
}

const dataStack = `
import numpy, pandas, scipy.stats, scipy.optimize, matplotlib.pyplot as plt, sklearn.linear_model
frame = pandas.DataFrame({'a': numpy.arange(1000)})
model = sklearn.linear_model.LinearRegression().fit(frame[['a']], frame.a * 2 + 1)
`

// TestSuspendedSandboxIsCompressed checks that the checkpoint of a suspended sandbox is compressed and becomes small,
// and that the sandbox can then still be forked and resumed.
func TestSuspendedSandboxIsCompressed(t *testing.T) {
	image, dir := anyImage(t), tempDir(t)
	e := openPacking(t, dir, time.Millisecond)
	s := spec(image)
	create(t, e, s)
	python(t, e, s.ID, dataStack+"x = 1")
	began := time.Now()
	if err := e.Suspend(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	suspendTime, before := time.Since(began), onlyContainer(t, e).StateBytes
	began = time.Now()
	awaitPacked(t, dir, s.ID)
	c := onlyContainer(t, e)
	t.Logf("suspend: %v; compress: %v, from %.1f to %.1f MB", suspendTime, time.Since(began), float64(before)/1e6, float64(c.StateBytes)/1e6)
	if !c.Suspended || !c.AsOf.IsZero() || c.StateBytes > 40e6 {
		t.Errorf("List() = %+v, want it suspended, with at most 40 MB on disk", c)
	}

	// Fork and resume the sandbox from the compressed checkpoint.
	fork := sandbox.NewID()
	began = time.Now()
	if err := e.Fork(t.Context(), s.ID, fork); err != nil {
		t.Fatalf("Fork: %v", err)
	}
	t.Logf("fork: %v", time.Since(began))
	removeLater(t, e, fork)
	began = time.Now()
	if err := e.Resume(t.Context(), s.ID); err != nil {
		t.Fatalf("Resume: %v", err)
	}
	resumed := time.Since(began)
	for _, id := range []sandbox.ID{fork, s.ID} {
		if got := python(t, e, id, "print(x, round(model.predict(pandas.DataFrame({'a': [5]}))[0]))"); got != "1 11" {
			t.Errorf("sandbox %s prints %q, want 1 11", id, got)
		}
	}
	t.Logf("resume: %v", resumed)
	if left, _ := filepath.Glob(filepath.Join(dir, "sandboxes", "*", "checkpoint*")); len(left) > 0 {
		t.Errorf("the running sandboxes still have the checkpoints %q, want none", left)
	}

	// The compressed checkpoint is the fallback checkpoint of the resumed sandbox.
	python(t, e, s.ID, "x = 2")
	kill(t, e, s.ID)
	if err := e.Resume(t.Context(), s.ID); err != nil {
		t.Fatalf("Resume: %v", err)
	}
	if got := python(t, e, s.ID, "print(x)"); got != "1" {
		t.Errorf("x = %s, want 1", got)
	}
}

func TestADamagedCompressedCheckpointIsRefused(t *testing.T) {
	image, dir := anyImage(t), tempDir(t)
	e := openPacking(t, dir, time.Millisecond)
	s := spec(image)
	create(t, e, s)
	python(t, e, s.ID, "x = 1")
	if err := e.Suspend(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	awaitPacked(t, dir, s.ID)
	path := filepath.Join(dir, "sandboxes", string(s.ID), "checkpoint", "pages.img.zst")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func(text []byte) []byte{
		"a bit":     func(text []byte) []byte { text[len(text)/2] ^= 1; return text },
		"truncated": func(text []byte) []byte { return text[:len(text)/2] },
		"empty":     func([]byte) []byte { return nil },
		"shifted":   func(text []byte) []byte { return append([]byte{0}, text...) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, damage(append([]byte(nil), whole...)), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := e.Resume(t.Context(), s.ID); sandbox.KindOf(err) != sandbox.Expired {
				t.Errorf("Resume = %v (%s), want expired", err, sandbox.KindOf(err))
			}
			wantNothingRuns(t, e, s.ID)
		})
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := e.Resume(t.Context(), s.ID); err != nil {
		t.Fatalf("Resume after the checkpoint was repaired: %v", err)
	}
	if got := python(t, e, s.ID, "print(x)"); got != "1" {
		t.Errorf("x = %s, want 1", got)
	}
}

// TestResumeAndRemoveCancelCompression checks that Resume and Remove succeed while the sandbox's checkpoint is being
// compressed.
func TestResumeAndRemoveCancelCompression(t *testing.T) {
	image, dir := anyImage(t), tempDir(t)
	e := openPacking(t, dir, time.Millisecond)
	s := spec(image)
	create(t, e, s)
	python(t, e, s.ID, "import os; x = 0; block = os.urandom(200 << 20)")
	for i := range 4 {
		if err := e.Suspend(t.Context(), s.ID); err != nil {
			t.Fatalf("Suspend: %v", err)
		}
		if i > 0 { // in the first round, call Resume at once
			awaitPacking(t, dir, s.ID)
			time.Sleep(time.Duration(i-1) * 60 * time.Millisecond) // call Resume at a different moment of the compression each time
		}
		began := time.Now()
		if err := e.Resume(t.Context(), s.ID); err != nil {
			t.Fatalf("Resume: %v", err)
		}
		t.Logf("resume: %v", time.Since(began))
		if got, want := python(t, e, s.ID, "x += 1; print(x, len(block))"), fmt.Sprint(i+1, 200<<20); got != want {
			t.Errorf("the sandbox prints %q after the resume, want %q", got, want)
		}
	}
	if err := e.Suspend(t.Context(), s.ID); err != nil {
		t.Fatalf("Suspend: %v", err)
	}
	awaitPacking(t, dir, s.ID)
	var group sync.WaitGroup
	group.Go(func() {
		if err := e.Resume(t.Context(), s.ID); err != nil && sandbox.KindOf(err) != sandbox.NotFound {
			t.Errorf("Resume: %v", err)
		}
	})
	group.Go(func() {
		if err := e.Remove(t.Context(), s.ID); err != nil {
			t.Errorf("Remove: %v", err)
		}
	})
	group.Wait()
	wantNothingRuns(t, e, s.ID)
	// The engine deletes the compressed checkpoint in the background, after it has moved it to a folder .trash-….
	eventually(t, "no folder is left of the removed sandbox", func() bool {
		left, _ := filepath.Glob(filepath.Join(dir, "sandboxes", "*"))
		return len(left) == 0
	})
}
