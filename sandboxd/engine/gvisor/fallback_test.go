//go:build linux

package gvisor_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/enginetest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/bundle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// onlyContainer returns the only entry in the result of List. It fails the test if there is no entry or several.
func onlyContainer(t *testing.T, e *gvisor.Engine) engine.Container {
	t.Helper()
	list, err := e.List(t.Context())
	if err != nil || len(list) != 1 {
		t.Fatalf("List() = %+v, %v, want one sandbox", list, err)
	}
	return list[0]
}

// wantFallenBack fails the test unless the only sandbox is suspended with a checkpoint whose time lies between two
// given times.
func wantFallenBack(t *testing.T, e *gvisor.Engine, after, before time.Time) {
	t.Helper()
	c := onlyContainer(t, e)
	if !c.Suspended || c.Running || c.AsOf.Before(after) || c.AsOf.After(before) || c.StateBytes < 1<<20 || c.Detail == "" {
		t.Errorf("List() = %+v, want it suspended as of %v to %v", c, after, before)
	}
	if _, err := e.Dial(t.Context(), c.ID); sandbox.KindOf(err) != sandbox.Busy {
		t.Errorf("Dial = %v, want busy", err)
	}
}

const saveFiles = `
import os
for name in '/workspace/file', '/tmp/file', '/dev/shm/file':
    with open(name, 'w') as file: file.write(str(x))
log = open('/workspace/log', 'a'); log.write('%d ' % x); log.flush()
`

const showFiles = `print(x, *[open(name).read() for name in ('/workspace/file', '/tmp/file', '/dev/shm/file', '/workspace/log')])`

// TestASandboxThatDiesFallsBackToItsCheckpoint checks that a sandbox whose processes die becomes suspended with its
// latest checkpoint, and that the memory and the files in the checkpoint are of the same moment.
func TestASandboxThatDiesFallsBackToItsCheckpoint(t *testing.T) {
	image, dir := anyImage(t), tempDir(t)
	e := open(t, dir, bundle.Bundle{})
	s := spec(image)
	create(t, e, s)
	checkpoint := func(t *testing.T) (began, ended time.Time) {
		t.Helper()
		began = time.Now()
		if err := e.Checkpoint(t.Context(), s.ID); err != nil {
			t.Fatalf("Checkpoint: %v", err)
		}
		t.Logf("checkpoint: %v", time.Since(began))
		return began, time.Now()
	}
	resume := func(t *testing.T, want string) {
		t.Helper()
		if err := e.Resume(t.Context(), s.ID); err != nil {
			t.Fatalf("Resume: %v", err)
		}
		if c := onlyContainer(t, e); !c.Running || c.Suspended || !c.AsOf.IsZero() || c.StateBytes < 1<<20 {
			t.Errorf("List() = %+v, want it running, with a checkpoint", c)
		}
		if got := python(t, e, s.ID, showFiles); got != want {
			t.Errorf("the resumed sandbox has the values %q, want %q", got, want)
		}
	}
	python(t, e, s.ID, "x = 1"+saveFiles)
	checkpoint(t)
	python(t, e, s.ID, "x = 2"+saveFiles)
	after, before := checkpoint(t) // this checkpoint replaces the first one
	python(t, e, s.ID, "x = 3"+saveFiles)
	if c := onlyContainer(t, e); !c.Running || c.Suspended || !c.AsOf.IsZero() || c.StateBytes < 1<<20 {
		t.Errorf("List() = %+v, want it running, with a checkpoint", c)
	}
	kill(t, e, s.ID)
	wantFallenBack(t, e, after, before)
	if err := e.Checkpoint(t.Context(), s.ID); err == nil {
		t.Error("Checkpoint of a dead sandbox = nil, want an error")
	}
	if err := e.Discard(t.Context(), s.ID); err != nil {
		t.Error(err)
	}
	wantFallenBack(t, e, after, before) // Discard must not have removed the checkpoint of the dead sandbox

	// After a restart, which is simulated by opening a second engine on the same folder, List returns the same state,
	// and a fork has the same memory and files.
	e = open(t, dir, bundle.Bundle{})
	wantFallenBack(t, e, after, before)
	wantNothingRuns(t, e, s.ID)
	fork := sandbox.NewID()
	if err := e.Fork(t.Context(), s.ID, fork); err != nil {
		t.Fatalf("Fork: %v", err)
	}
	if got, want := python(t, e, fork, showFiles), "2 2 2 2 1 2"; got != want {
		t.Errorf("the fork has the values %q, want %q", got, want)
	}
	if err := e.Remove(t.Context(), fork); err != nil {
		t.Error(err)
	}
	resume(t, "2 2 2 2 1 2")

	// If the processes of the resumed sandbox die, the sandbox falls back to the same checkpoint again.
	python(t, e, s.ID, "x = 4"+saveFiles)
	kill(t, e, s.ID)
	wantFallenBack(t, e, after, before)
	resume(t, "2 2 2 2 1 2")

	// A sandbox that is suspended by Suspend loses nothing. After the next Resume, the checkpoint that Suspend wrote
	// is the fallback checkpoint.
	python(t, e, s.ID, "x = 5"+saveFiles)
	after = time.Now()
	if err := e.Suspend(t.Context(), s.ID); err != nil {
		t.Fatalf("Suspend: %v", err)
	}
	before = time.Now()
	if c := onlyContainer(t, e); !c.Suspended || !c.AsOf.IsZero() {
		t.Errorf("List() = %+v, want it suspended, with a zero AsOf", c)
	}
	resume(t, "5 5 5 5 1 2 5")
	python(t, e, s.ID, "x = 6"+saveFiles)
	reboot(t, e, dir, s.ID)
	e = open(t, dir, bundle.Bundle{})
	wantFallenBack(t, e, after, before)
	if c := onlyContainer(t, e); !strings.Contains(c.Detail, "restarted") {
		t.Errorf("List() = %+v, want a Detail that the machine was restarted", c)
	}
	resume(t, "5 5 5 5 1 2 5")

	// Without a fallback checkpoint, the sandbox is lost when its processes die.
	if err := e.Discard(t.Context(), s.ID); err != nil {
		t.Error(err)
	}
	if c := onlyContainer(t, e); !c.Running || c.StateBytes != 0 {
		t.Errorf("List() = %+v, want it running, without a checkpoint on disk", c)
	}
	kill(t, e, s.ID)
	if c := onlyContainer(t, e); c.Running || c.Suspended {
		t.Errorf("List() = %+v, want it neither running nor suspended", c)
	}
}

// reboot simulates a reboot: it kills the processes of a sandbox, removes its cgroup and the state of runsc, and changes
// the boot id in the record of its process.
func reboot(t *testing.T, e *gvisor.Engine, dir string, id sandbox.ID) {
	t.Helper()
	kill(t, e, id)
	path := filepath.Join(dir, "sandboxes", string(id), "process.json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var p map[string]any
	if err := json.Unmarshal(text, &p); err != nil {
		t.Fatal(err)
	}
	p["boot"] = "another"
	text, _ = json.Marshal(p) // can't fail: the value of p was read from JSON
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*/dormouse/" + string(id), "/sys/fs/cgroup/dormouse/" + string(id)} {
		groups, _ := filepath.Glob(pattern)
		for _, group := range groups {
			// Remove fails while the machine's kernel still counts a process that has just ended.
			eventually(t, "cgroup "+group+" can be removed", func() bool { return os.Remove(group) == nil })
		}
	}
	if err := os.RemoveAll(filepath.Join(dir, "runsc")); err != nil {
		t.Error(err)
	}
}

// TestDamagedFallbackCheckpointIsLost checks that Resume returns an error of kind expired if the fallback checkpoint is
// damaged.
func TestDamagedFallbackCheckpointIsLost(t *testing.T) {
	t.Parallel()
	image, dir := anyImage(t), tempDir(t)
	e := open(t, dir, bundle.Bundle{})
	for name, damage := range map[string]func(path string) error{
		"truncated pages":   func(dir string) error { return os.Truncate(filepath.Join(dir, "pages.img"), 1<<20) },
		"no manifest":       func(dir string) error { return os.Remove(filepath.Join(dir, "manifest.json")) },
		"an empty manifest": func(dir string) error { return os.Truncate(filepath.Join(dir, "manifest.json"), 0) },
	} {
		t.Run(name, func(t *testing.T) {
			s := spec(image)
			create(t, e, s)
			python(t, e, s.ID, "x = 1")
			if err := e.Checkpoint(t.Context(), s.ID); err != nil {
				t.Fatal(err)
			}
			if err := damage(filepath.Join(dir, "sandboxes", string(s.ID), "kept")); err != nil {
				t.Fatal(err)
			}
			if got := python(t, e, s.ID, "print(x)"); got != "1" {
				t.Errorf("x = %s, want 1", got)
			}
			kill(t, e, s.ID)
			if c := onlyContainer(t, e); !c.Suspended || c.AsOf.IsZero() {
				t.Errorf("List() = %+v, want it suspended as of the time of the checkpoint", c)
			}
			if err := e.Resume(t.Context(), s.ID); sandbox.KindOf(err) != sandbox.Expired {
				t.Errorf("Resume = %v, want expired", err)
			}
			wantNothingRuns(t, e, s.ID)
			if err := e.Remove(t.Context(), s.ID); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestOutOfMemoryFallsBack checks that a sandbox that was killed because it ran out of memory falls back to its
// checkpoint, and that List names the reason.
func TestOutOfMemoryFallsBack(t *testing.T) {
	image := anyImage(t)
	e := open(t, tempDir(t), enginetest.Probe(t))
	s := spec(image)
	s.Limits.MemoryBytes = 128 * sandbox.MiB
	create(t, e, s)
	if err := e.Checkpoint(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	client := http.Client{Transport: &http.Transport{
		Protocols:   protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return e.Dial(ctx, s.ID) },
	}}
	if err := runMemoryHog(&client); err == nil {
		t.Error("the program that fills the memory ended, want that its sandbox ends first")
	}
	eventually(t, "the sandbox ends", func() bool { return !onlyContainer(t, e).Running })
	// In the first iteration, List determines the reason itself. Suspend then writes the reason to a file, which List
	// reads in the second iteration.
	for range 2 {
		if c := onlyContainer(t, e); !c.Suspended || c.AsOf.IsZero() || !strings.Contains(c.Detail, "out of memory") {
			t.Errorf("List() = %+v, want it suspended as of the time of the checkpoint, with a Detail that it ran out of memory", c)
		}
		if err := e.Suspend(t.Context(), s.ID); err != nil {
			t.Error(err)
		}
	}
	if err := e.Resume(t.Context(), s.ID); err != nil {
		t.Errorf("Resume: %v", err)
	}
	if c := onlyContainer(t, e); !c.Running {
		t.Errorf("List() = %+v, want it running", c)
	}
}
