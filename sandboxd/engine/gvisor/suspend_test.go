package gvisor_test

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/bundle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

func spec(image string) engine.Spec {
	return engine.Spec{
		ID: sandbox.NewID(), Image: image, UID: 200_000, Expires: time.Now().Add(time.Hour), Language: sandbox.Python,
		Limits: sandbox.Limits{MemoryBytes: 1024 * sandbox.MiB, CPUs: 2, Processes: 200, WorkspaceBytes: 128 * sandbox.MiB},
	}
}

// create creates a sandbox with the real guest, and removes it at the end of the test.
func create(t *testing.T, e *gvisor.Engine, s engine.Spec) {
	t.Helper()
	began := time.Now()
	if err := e.Create(t.Context(), s); err != nil {
		t.Fatalf("Create: %v", err)
	}
	t.Logf("create: %v", time.Since(began))
	removeLater(t, e, s.ID)
}

func removeLater(t *testing.T, e *gvisor.Engine, id sandbox.ID) {
	t.Cleanup(func() {
		if err := e.Remove(context.WithoutCancel(t.Context()), id); err != nil {
			t.Errorf("Remove: %v", err)
		}
	})
}

// python runs code in a sandbox's kernel and returns what it prints.
func python(t *testing.T, e *gvisor.Engine, id sandbox.ID, code string) string {
	t.Helper()
	client := guest.NewClient(func(ctx context.Context) (net.Conn, error) { return e.Dial(ctx, id) })
	defer client.Close()
	seconds := 120
	got, err := client.Execute(t.Context(), sandbox.NewExecutionID(), sandbox.ExecuteRequest{
		Code: code, Language: sandbox.Python, TimeoutSeconds: &seconds, WaitSeconds: 120})
	if err != nil {
		t.Fatalf("Execute: %v", err)
	}
	if got.State != sandbox.ExecSucceeded {
		t.Fatalf("Execute = %+v", got)
	}
	var text strings.Builder
	for _, event := range got.Events {
		text.WriteString(event.Text)
	}
	return strings.TrimSpace(text.String())
}

const make100MB = `
import itertools
block = bytearray(b'dormouse') * (100 << 17)
squares = (n * n for n in itertools.count())
first = [next(squares) for _ in range(3)]
log = open('/workspace/log', 'w+')
log.write('before ')
`

const printState = `
log.write('after'); log.seek(0)
print(first, next(squares), len(block) >> 20, block[-8:].decode(), log.read())
log.seek(0, 2)
`

func TestSuspendedStateSurvives(t *testing.T) {
	t.Parallel()
	image, dir := anyImage(t), tempDir(t)
	e := open(t, dir, bundle.Bundle{})
	s := spec(image)
	create(t, e, s)
	python(t, e, s.ID, make100MB)

	began := time.Now()
	if err := e.Suspend(t.Context(), s.ID); err != nil {
		t.Fatalf("Suspend: %v", err)
	}
	t.Logf("suspend: %v, %d MB", time.Since(began), bytesIn(t, filepath.Join(dir, "sandboxes", string(s.ID)))>>20)
	wantNothingRuns(t, e, s.ID)
	files, _ := filepath.Glob(filepath.Join(dir, "sandboxes", "*", "checkpoint", "*"))
	for _, file := range files {
		if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v, want it for its owner alone", file, info.Mode(), err)
		}
	}
	if list, err := e.List(t.Context()); err != nil || len(list) != 1 || !list[0].Suspended || list[0].Running {
		t.Errorf("List() = %+v, %v, want one that is suspended", list, err)
	}
	if err := e.Suspend(t.Context(), s.ID); err != nil {
		t.Errorf("Suspend again: %v", err)
	}
	if _, err := e.Dial(t.Context(), s.ID); sandbox.KindOf(err) != sandbox.Busy {
		t.Errorf("Dial = %v, want busy", err)
	}

	// A second engine on the same folder, as after a restart of the daemon, can resume the sandbox. Of two concurrent
	// calls of Resume, one resumes the sandbox, and the other finds it running and succeeds, too.
	e = open(t, dir, bundle.Bundle{})
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() {
			began := time.Now()
			if err := e.Resume(t.Context(), s.ID); err != nil {
				t.Errorf("Resume: %v", err)
			}
			t.Logf("resume: %v", time.Since(began))
		})
	}
	group.Wait()
	began = time.Now()
	if got, want := python(t, e, s.ID, printState), "[0, 1, 4] 9 100 dormouse before after"; got != want {
		t.Errorf("it printed %q, want %q", got, want)
	}
	t.Logf("first answer: %v", time.Since(began))

	// A resumed sandbox can be suspended again.
	for range 2 {
		if err := e.Suspend(t.Context(), s.ID); err != nil {
			t.Fatalf("Suspend: %v", err)
		}
		if err := e.Resume(t.Context(), s.ID); err != nil {
			t.Fatalf("Resume: %v", err)
		}
	}
	if got := python(t, e, s.ID, "print(next(squares))"); got != "16" {
		t.Errorf("it printed %q, want 16", got)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "sandboxes", "*", "checkpoint*")); len(left) > 0 {
		t.Errorf("%q are left of a running sandbox", left)
	}
}

func TestForkIsIndependentOfTheOriginal(t *testing.T) {
	t.Parallel()
	image := anyImage(t)
	e := open(t, tempDir(t), bundle.Bundle{})
	s := spec(image)
	create(t, e, s)
	python(t, e, s.ID, "x = 1")
	fork := func(t *testing.T) sandbox.ID {
		id := sandbox.NewID()
		began := time.Now()
		if err := e.Fork(t.Context(), s.ID, id); err != nil {
			t.Fatalf("Fork: %v", err)
		}
		t.Logf("fork: %v", time.Since(began))
		removeLater(t, e, id)
		return id
	}
	second := fork(t)
	python(t, e, second, "x = 2")
	if got := python(t, e, s.ID, "print(x)"); got != "1" {
		t.Errorf("the original has x = %s, want 1", got)
	}
	if err := e.Suspend(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	third := fork(t)
	if got := python(t, e, third, "print(x)") + python(t, e, second, "print(x)"); got != "12" {
		t.Errorf("the forks have x = %q, want 1 and 2", got)
	}
	if err := e.Resume(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	if got := python(t, e, s.ID, "print(x)"); got != "1" {
		t.Errorf("the original has x = %s, want 1", got)
	}
	if err := e.Fork(t.Context(), s.ID, second); err == nil {
		t.Error("Fork to a sandbox that is there gave no error")
	}
	python(t, e, second, "x")
	if err := e.Fork(t.Context(), sandbox.NewID(), sandbox.NewID()); sandbox.KindOf(err) != sandbox.NotFound {
		t.Errorf("Fork of nothing = %v, want not_found", err)
	}
}

func TestADamagedCheckpointIsRefused(t *testing.T) {
	t.Parallel()
	image, dir := anyImage(t), tempDir(t)
	e := open(t, dir, bundle.Bundle{})
	s := spec(image)
	create(t, e, s)
	python(t, e, s.ID, "x = 1")
	if err := e.Suspend(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	sandboxDir := filepath.Join(dir, "sandboxes", string(s.ID))
	for name, damage := range map[string]func(t *testing.T, path string, text []byte) error{
		"pages.img": func(_ *testing.T, path string, text []byte) error {
			text[len(text)/2] ^= 1
			return os.WriteFile(path, text, 0o600)
		},
		"checkpoint.img": func(_ *testing.T, path string, text []byte) error {
			return os.WriteFile(path, text[:len(text)-1], 0o600)
		},
		"pages_meta.img": func(_ *testing.T, path string, _ []byte) error { return os.Remove(path) },
		"manifest.json": func(_ *testing.T, path string, text []byte) error {
			return os.WriteFile(path, []byte(strings.Replace(string(text), `"cpu":["`, `"cpu":["0`, 1)), 0o600)
		},
		"../config.json": func(_ *testing.T, path string, text []byte) error {
			return os.WriteFile(path, append(text, ' '), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(sandboxDir, "checkpoint", name)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			whole := strings.Clone(string(text))
			if err := damage(t, path, text); err != nil {
				t.Fatal(err)
			}
			if err := e.Resume(t.Context(), s.ID); sandbox.KindOf(err) != sandbox.Expired {
				t.Errorf("Resume = %v (%s), want expired", err, sandbox.KindOf(err))
			}
			wantNothingRuns(t, e, s.ID)
			if err := os.WriteFile(path, []byte(whole), 0o600); err != nil {
				t.Fatal(err)
			}
		})
	}
	t.Run("a pipe without a writer", func(t *testing.T) {
		path := filepath.Join(sandboxDir, "checkpoint", "pages.img")
		if err := errors.Join(os.Rename(path, path+".kept"), exec.Command("mkfifo", path).Run()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := e.Resume(ctx, s.ID); sandbox.KindOf(err) != sandbox.Expired {
			t.Errorf("Resume = %v (%s), want expired", err, sandbox.KindOf(err))
		}
		wantNothingRuns(t, e, s.ID)
		if err := os.Rename(path+".kept", path); err != nil {
			t.Fatal(err)
		}
	})
	if err := e.Resume(t.Context(), s.ID); err != nil {
		t.Fatalf("Resume after the checkpoint was repaired: %v", err)
	}
	if got := python(t, e, s.ID, "print(x)"); got != "1" {
		t.Errorf("x = %s, want 1", got)
	}
}

// TestInterruptedSuspendOrResumeIsRecovered checks that an engine finds a usable sandbox if it is opened after the
// daemon was killed during a suspend or resume. It simulates the kill by changing the files of the sandbox.
func TestInterruptedSuspendOrResumeIsRecovered(t *testing.T) {
	t.Parallel()
	image, dir := anyImage(t), tempDir(t)
	e := open(t, dir, bundle.Bundle{})
	s := spec(image)
	create(t, e, s)
	python(t, e, s.ID, "x = 1")
	sandboxDir := filepath.Join(dir, "sandboxes", string(s.ID))

	// Simulate a daemon that was killed while it wrote the checkpoint: the sandbox must keep running.
	if err := os.MkdirAll(filepath.Join(sandboxDir, "checkpoint.making", "pages.img"), 0o700); err != nil {
		t.Fatal(err)
	}
	e = open(t, dir, bundle.Bundle{})
	if got := python(t, e, s.ID, "print(x)"); got != "1" {
		t.Errorf("x = %s, want 1", got)
	}
	if err := e.Suspend(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	// Simulate a daemon that was killed after it restored the sandbox and before it renamed the checkpoint to "kept":
	// the sandbox must be suspended.
	fallback := filepath.Join(tempDir(t), "kept")
	if err := os.CopyFS(fallback, os.DirFS(filepath.Join(sandboxDir, "checkpoint"))); err != nil {
		t.Fatal(err)
	}
	if err := e.Resume(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	python(t, e, s.ID, "x = 2")
	if err := os.CopyFS(filepath.Join(sandboxDir, "checkpoint"), os.DirFS(fallback)); err != nil {
		t.Fatal(err)
	}
	e = open(t, dir, bundle.Bundle{})
	wantNothingRuns(t, e, s.ID)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := e.Resume(ctx, s.ID); err == nil {
		t.Error("Resume whose context ended = nil, want an error")
	}
	wantNothingRuns(t, e, s.ID)
	if err := e.Resume(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	if got := python(t, e, s.ID, "print(x)"); got != "1" {
		t.Errorf("x = %s, want 1", got)
	}
}

func bytesIn(t *testing.T, dir string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		n += info.Size()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// wantNothingRuns fails the test if processes, cgroups or mounts of a sandbox are left.
func wantNothingRuns(t *testing.T, e *gvisor.Engine, id sandbox.ID) {
	t.Helper()
	pids, err := e.ProcessesOf(id)
	if err != nil || len(pids) > 0 {
		t.Errorf("processes %v of sandbox %s run (error %v), want none", pids, id, err)
	}
	if groups, _ := filepath.Glob("/sys/fs/cgroup/*/dormouse/" + string(id)); len(groups) > 0 {
		t.Errorf("the cgroups %q exist, want none", groups)
	}
	if left, _ := filepath.Glob("/sys/fs/cgroup/dormouse/" + string(id)); len(left) > 0 {
		t.Errorf("the cgroups %q exist, want none", left)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), string(id)) {
		t.Errorf("sandbox %s has a mount, want none", id)
	}
}
