//go:build linux

package gvisor_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/bundle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// pooledSandboxes returns the names of all pooled sandboxes of a home, used or not.
func pooledSandboxes(t *testing.T, dir string) (names []string) {
	t.Helper()
	paths, _ := filepath.Glob(filepath.Join(dir, "spares", "*"))
	for _, path := range paths {
		names = append(names, filepath.Base(path))
	}
	return names
}

// ready waits until a pooled sandbox whose name is not in others is ready, and returns the name of the pooled sandbox.
func ready(t *testing.T, e *gvisor.Engine, others ...string) (name string) {
	t.Helper()
	eventually(t, "a pooled sandbox is ready", func() bool {
		name = e.Pooled()
		return name != "" && !slices.Contains(others, name)
	})
	return name
}

// taken returns the name of the pooled sandbox that a sandbox runs in, or an empty string.
func taken(dir string, id sandbox.ID) string {
	text, _ := os.ReadFile(filepath.Join(dir, "sandboxes", string(id), "spare"))
	name, _, _ := strings.Cut(string(text), " ")
	return name
}

// suspendAndResume suspends a sandbox and resumes it.
func suspendAndResume(t *testing.T, e *gvisor.Engine, id sandbox.ID) {
	t.Helper()
	if err := e.Suspend(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := e.Resume(t.Context(), id); err != nil {
		t.Fatal(err)
	}
}

// TestAPooledSandboxBecomesASandbox checks that a sandbox that was resumed in a pooled sandbox behaves like any other:
// List returns it, it can be checkpointed and forked, it falls back to its checkpoint when its processes die, and
// Remove removes it together with the pooled sandbox. It also checks that each pooled sandbox is used once, and that
// pooled sandboxes end when the engine is closed.
func TestAPooledSandboxBecomesASandbox(t *testing.T) {
	image, dir := anyImage(t), tempDir(t)
	e := open(t, dir, bundle.Bundle{})
	s := spec(image)
	create(t, e, s)
	python(t, e, s.ID, "x = 1")
	suspendAndResume(t, e, s.ID)
	first := ready(t, e)
	suspendAndResume(t, e, s.ID)
	if got := taken(dir, s.ID); got != first {
		t.Fatalf("the resumed sandbox runs in the pooled sandbox %q, want %q", got, first)
	}
	python(t, e, s.ID, "x += 1")
	if list, err := e.List(t.Context()); err != nil || len(list) != 1 || !list[0].Running {
		t.Errorf("List() = %+v, %v, want one running sandbox", list, err)
	}
	if err := e.Checkpoint(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}

	second := ready(t, e, first)
	fork := sandbox.NewID()
	if err := e.Fork(t.Context(), s.ID, fork); err != nil {
		t.Fatal(err)
	}
	removeLater(t, e, fork)
	if got := taken(dir, fork); got != second {
		t.Errorf("the fork runs in the pooled sandbox %q, want %q", got, second)
	}
	python(t, e, fork, "x += 10")

	kill(t, e, s.ID)
	if list, err := e.List(t.Context()); err != nil || len(list) != 2 || list[0].Running && list[1].Running {
		t.Errorf("List() = %+v, %v, want two sandboxes, of which the killed one does not run", list, err)
	}
	if err := e.Resume(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	if got := python(t, e, s.ID, "print(x)") + " " + python(t, e, fork, "print(x)"); got != "2 12" {
		t.Errorf("x in the resumed sandbox and in its fork = %s, want 2 12", got)
	}
	if slices.Contains(pooledSandboxes(t, dir), first) {
		t.Error("the folder of the killed pooled sandbox exists, want it removed")
	}
	for _, id := range []sandbox.ID{s.ID, fork} {
		if err := e.Remove(t.Context(), id); err != nil {
			t.Error(err)
		}
		wantNothingRuns(t, e, id)
	}
	e.Close()
	for _, pattern := range []string{"sandboxes/*", "sandboxes/.*", "runsc/*", "spares/*"} {
		if left, _ := filepath.Glob(filepath.Join(dir, pattern)); len(left) > 0 {
			t.Errorf("%q exist after the engine was closed, want none", left)
		}
	}
	if left := runscOf(dir + "/"); len(left) > 0 {
		t.Errorf("runsc processes %v run after the engine was closed, want none", left)
	}
}

// runscOf returns the pids of the runsc processes whose command line contains text.
func runscOf(text string) (pids []int) {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		line, err := os.ReadFile(path)
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		program, _, _ := strings.Cut(string(line), "\x00")
		if err == nil && strings.HasPrefix(filepath.Base(program), "runsc") && strings.Contains(string(line), text) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestUnusedPooledSandboxesOfAKilledDaemonEnd checks which pooled sandboxes of a killed daemon the next engine ends. It
// must end the one that an interrupted resume had begun to use, and keep the one that a sandbox runs in.
func TestUnusedPooledSandboxesOfAKilledDaemonEnd(t *testing.T) {
	image, dir := anyImage(t), tempDir(t)
	killed := open(t, dir, bundle.Bundle{})
	s, taking := spec(image), spec(image)
	for _, s := range []engine.Spec{s, taking} {
		create(t, killed, s)
	}
	python(t, killed, taking.ID, "y = 7")
	if err := killed.Suspend(t.Context(), taking.ID); err != nil {
		t.Fatal(err)
	}
	suspendAndResume(t, killed, s.ID)
	first := ready(t, killed)
	suspendAndResume(t, killed, s.ID)
	python(t, killed, s.ID, "x = 42")
	second := ready(t, killed, first)
	if err := os.WriteFile(filepath.Join(dir, "sandboxes", string(taking.ID), "spare"), []byte(second), 0o600); err != nil {
		t.Fatal(err)
	}

	e := open(t, dir, bundle.Bundle{})
	if left := pooledSandboxes(t, dir); !slices.Equal(left, []string{first}) {
		t.Errorf("there are the pooled sandboxes %q, want %q, in which a sandbox runs, and not %q", left, first, second)
	}
	if got := python(t, e, s.ID, "print(x)"); got != "42" {
		t.Errorf("x = %s, want 42", got)
	}
	if err := e.Resume(t.Context(), taking.ID); err != nil {
		t.Fatal(err)
	}
	if got := python(t, e, taking.ID, "print(y)"); got != "7" {
		t.Errorf("y = %s, want 7", got)
	}
}

// TestOnlyAMatchingLivePooledSandboxIsUsed checks that a sandbox runs in a pooled sandbox only if the pooled sandbox
// has the same configuration and is alive.
func TestOnlyAMatchingLivePooledSandboxIsUsed(t *testing.T) {
	image, dir := anyImage(t), tempDir(t)
	e := open(t, dir, bundle.Bundle{})
	other, s := spec(image), spec(image)
	other.Limits.MemoryBytes /= 2
	for _, s := range []engine.Spec{s, other} {
		create(t, e, s)
	}
	suspendAndResume(t, e, s.ID)
	first := ready(t, e)
	suspendAndResume(t, e, other.ID)
	if got := taken(dir, other.ID); got != "" {
		t.Errorf("a sandbox with another memory limit runs in the pooled sandbox %q, want in none", got)
	}
	// The second pooled sandbox has the memory limit of the sandbox other, which was started last.
	second := ready(t, e, first)
	if slices.Contains(pooledSandboxes(t, dir), first) {
		t.Errorf("the pooled sandbox %s still exists beside %s, want that the new one replaces it", first, second)
	}
	eventually(t, "the killed processes of the pooled sandbox end", func() bool {
		pids := runscOf(second)
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		return len(pids) == 0
	})
	suspendAndResume(t, e, other.ID)
	if got := taken(dir, other.ID); got != "" {
		t.Errorf("the resumed sandbox runs in the pooled sandbox %q, which was killed; want in none", got)
	}
	python(t, e, other.ID, "1")
}
