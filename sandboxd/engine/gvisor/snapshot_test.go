//go:build linux

package gvisor_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/bundle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestABadSnapshotStartsNothing checks that Start returns an error for a damaged snapshot, leaves no sandbox, and
// removes the snapshot, so that the next Start finds no snapshot.
func TestABadSnapshotStartsNothing(t *testing.T) {
	image := anyImage(t)
	for name, spoil := range map[string]func(t *testing.T, dir string){
		"a byte of its memory was changed": func(t *testing.T, dir string) {
			path := filepath.Join(dir, "checkpoint", "pages.img")
			file, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			b := make([]byte, 1)
			if _, err := file.ReadAt(b, 1<<20); err != nil {
				t.Fatal(err)
			}
			if _, err := file.WriteAt([]byte{b[0] ^ 1}, 1<<20); err != nil {
				t.Fatal(err)
			}
		},
		"its memory is cut off": func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, "checkpoint", "pages.img"), 1<<20); err != nil {
				t.Fatal(err)
			}
		},
		"its configuration is another's": func(t *testing.T, dir string) {
			path := filepath.Join(dir, "config.json")
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, append(text, ' '), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"it has no manifest": func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "checkpoint", "manifest.json")); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			home := tempDir(t)
			e := open(t, home, bundle.Bundle{})
			ready := func(context.Context) error { return nil }
			if err := e.Snapshot(t.Context(), spec(image), ready); err != nil {
				t.Fatalf("Snapshot: %v", err)
			}
			dirs, _ := filepath.Glob(filepath.Join(home, "snapshots", "*"))
			if len(dirs) != 1 {
				t.Fatalf("there are %d snapshots, want 1", len(dirs))
			}
			spoil(t, dirs[0])
			if started, err := e.Start(t.Context(), spec(image)); started || err == nil {
				t.Errorf("Start = %v, %v, want an error", started, err)
			}
			if left, err := e.List(t.Context()); err != nil || len(left) != 0 {
				t.Errorf("List() = %+v, %v, want none", left, err)
			}
			if started, err := e.Start(t.Context(), spec(image)); started || err != nil {
				t.Errorf("Start = %v, %v, want none", started, err)
			}
		})
	}
}

// TestSnapshotsAreTidied checks that at most eight snapshots are kept, and that New removes snapshots that are too old
// or were made with another runsc or guest.
func TestSnapshotsAreTidied(t *testing.T) {
	image, home := anyImage(t), tempDir(t)
	e := open(t, home, bundle.Bundle{})
	make := func(t *testing.T, change func(*engine.Spec)) {
		t.Helper()
		s := spec(image)
		change(&s)
		if err := e.Snapshot(t.Context(), s, func(context.Context) error { return nil }); err != nil {
			t.Fatalf("Snapshot: %v", err)
		}
	}
	has := func(t *testing.T, want int) (dirs []string) {
		t.Helper()
		dirs, _ = filepath.Glob(filepath.Join(home, "snapshots", "*"))
		if len(dirs) != want {
			t.Errorf("there are %d snapshots, want %d", len(dirs), want)
		}
		return dirs
	}
	for n := range 9 {
		make(t, func(s *engine.Spec) { s.Limits.Processes += n })
	}
	dirs := has(t, 8)
	old := time.Now().Add(-sandbox.MaxTTL)
	if err := os.Chtimes(dirs[0], old, old); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dirs[1], "record.json"), []byte(`{"runsc": "another"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = open(t, home, bundle.Bundle{})
	has(t, 6)
}
