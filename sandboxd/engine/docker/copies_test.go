//go:build linux

package docker_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/docker"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/enginetest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// noCopies fails the test if containerd has left copies of a container's memory.
func noCopies(t *testing.T, containerID string) {
	t.Helper()
	if got := copiesOf(containerID); len(got) > 0 {
		t.Errorf("copies of the sandbox's memory = %q, want none", got)
	}
}

// openToDisk opens an engine for a home, and skips the test if the engine does not suspend to disk.
func openToDisk(t *testing.T, guest engine.Bundle, home string) *docker.Engine {
	t.Helper()
	e := open(t, docker.Config{Home: home, Bundle: guest, Runtime: "runsc"})
	if e.Info().Suspend != engine.ToDisk {
		skipWithout(t, "runsc", "the engine does not suspend to disk")
	}
	return e
}

func removeInTheEnd(t *testing.T, e *docker.Engine, id sandbox.ID) {
	t.Cleanup(func() { _ = e.Remove(context.WithoutCancel(t.Context()), id) })
}

func containerOf(t *testing.T, e *docker.Engine, id sandbox.ID) string {
	t.Helper()
	containerID, err := e.ContainerOf(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return containerID
}

func TestResumeAndForkLeaveNoCopies(t *testing.T) {
	t.Parallel()
	image, guest := testImage(t), enginetest.Probe(t)
	e := openToDisk(t, guest, "test-"+string(sandbox.NewID()))
	s, copied, another := spec(image), sandbox.NewID(), sandbox.NewID()
	if err := e.Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	removeInTheEnd(t, e, s.ID)
	removeInTheEnd(t, e, copied)
	removeInTheEnd(t, e, another)
	containerID := containerOf(t, e, s.ID)
	step := func(name string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		noCopies(t, containerID)
	}
	for range 2 {
		step("Suspend", e.Suspend(t.Context(), s.ID))
		step("Resume", e.Resume(t.Context(), s.ID))
	}
	step("Fork of a running sandbox", e.Fork(t.Context(), s.ID, copied))
	step("Suspend of the fork", e.Suspend(t.Context(), copied))
	step("Resume of the fork", e.Resume(t.Context(), copied))
	noCopies(t, containerOf(t, e, copied))
	step("Suspend", e.Suspend(t.Context(), s.ID))
	step("Fork of a suspended sandbox", e.Fork(t.Context(), s.ID, another))

	// A resume that fails, here because of damaged memory, leaves no copy either.
	dir, err := e.SavedTo(t.Context(), s.ID)
	if err != nil {
		t.Fatal(err)
	}
	pages := filepath.Join(dir, "pages.img")
	intact, err := os.ReadFile(pages)
	if err != nil {
		skipWithout(t, "runsc", err)
	}
	if err := os.WriteFile(pages, append([]byte{intact[0] ^ 1}, intact[1:]...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := e.Resume(t.Context(), s.ID); err == nil {
		t.Error("Resume of damaged memory = nil, want an error")
	}
	noCopies(t, containerID)
}

// TestCopiesLeftByACrashAreRemovedAtStart checks that docker.New removes the copies of memory that a killed daemon has
// left, of both suspended and running sandboxes.
func TestCopiesLeftByACrashAreRemovedAtStart(t *testing.T) {
	t.Parallel()
	image, guest := testImage(t), enginetest.Probe(t)
	home := "test-" + string(sandbox.NewID())
	e := openToDisk(t, guest, home)
	ids := map[string]sandbox.ID{"suspended": "", "running": ""}
	copies := map[string]string{}
	for name := range ids {
		s := spec(image)
		ids[name] = s.ID
		if err := e.Create(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		removeInTheEnd(t, e, s.ID)
		if err := e.Suspend(t.Context(), s.ID); err != nil {
			t.Fatal(err)
		}
		dir, err := e.SavedTo(t.Context(), s.ID)
		if err != nil {
			t.Fatal(err)
		}
		memory := t.TempDir()
		if err := os.CopyFS(memory, os.DirFS(dir)); err != nil {
			skipWithout(t, "runsc", err) // the engine's folder is on another machine, or not accessible to this user
		}
		if name == "running" {
			if err := e.Resume(t.Context(), s.ID); err != nil {
				t.Fatal(err)
			}
		}
		left, err := os.MkdirTemp("", "ctrd-checkpoint")
		if err == nil {
			t.Cleanup(func() { os.RemoveAll(left) })
			err = os.CopyFS(left, os.DirFS(memory))
		}
		if err != nil {
			t.Fatal(err)
		}
		copies[name] = left
	}
	openToDisk(t, guest, home)
	for name, id := range ids {
		if _, err := os.Stat(copies[name]); !os.IsNotExist(err) {
			t.Errorf("%s: after the next start Stat() = %v, want the copy removed", name, err)
		}
		if err := e.Resume(t.Context(), id); err != nil {
			t.Errorf("%s: Resume: %v", name, err)
		}
	}
}
