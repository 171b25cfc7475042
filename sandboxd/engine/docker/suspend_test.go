package docker_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/docker"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/bundle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

const make100MB = `
import itertools, os, socket
block = bytearray(os.urandom(1 << 20)) * 100
squares = (n * n for n in itertools.count())
first = [next(squares) for _ in range(3)]
log = open('/workspace/log', 'w+')
log.write('before ')
who = os.getuid(), os.getpid(), socket.gethostname(), os.listdir('/proc/self/fd')
`

const continueCode = `
log.write('after '); log.flush()
print(first, next(squares), len(block) >> 20, block[:9] == block[1 << 20:][:9], open('/workspace/log').read(),
      (os.getuid(), os.getpid(), socket.gethostname()) == who[:3])
`

// TestKernelsSurviveSuspendAndResume checks that the state of the real guest and its kernels, including 100 MB of
// memory, survives several suspends and resumes.
func TestKernelsSurviveSuspendAndResume(t *testing.T) {
	t.Parallel()
	for _, runtime := range []string{"runc", "runsc"} {
		t.Run(runtime, func(t *testing.T) {
			t.Parallel()
			image := testImage(t)
			e := open(t, docker.Config{Home: "test-" + string(sandbox.NewID()), Bundle: bundle.Bundle{}, Runtime: runtime})
			s := spec(image)
			s.Limits.MemoryBytes, s.Limits.Processes = 1024*sandbox.MiB, 200
			if err := e.Create(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = e.Remove(context.WithoutCancel(t.Context()), s.ID) })
			execute(t, e, s.ID, sandbox.Python, make100MB)
			execute(t, e, s.ID, sandbox.JavaScript, "const kept = new Map([['n', 1]])")
			want := "before "
			for n, square := range []string{"9", "16", "25"} {
				began := time.Now()
				if err := e.Suspend(t.Context(), s.ID); err != nil {
					t.Fatalf("Suspend: %v", err)
				}
				suspendTime := time.Since(began)
				list, err := e.List(t.Context())
				if err != nil || len(list) != 1 || !list[0].Suspended {
					t.Fatalf("List() = %+v, %v, want one suspended sandbox", list, err)
				}
				began = time.Now()
				if err := e.Resume(t.Context(), s.ID); err != nil {
					t.Fatalf("Resume: %v", err)
				}
				resumeTime := time.Since(began)
				want += "after "
				if got, want := execute(t, e, s.ID, sandbox.Python, continueCode), "[0, 1, 4] "+square+" 100 True "+want+" True"; got != want {
					t.Errorf("the kernel printed %q, want %q", got, want)
				}
				if got, want := execute(t, e, s.ID, sandbox.JavaScript, "kept.set('n', kept.get('n') + 1); console.log(kept.get('n'))"), string(rune('2'+n)); got != want {
					t.Errorf("the kernel printed %q, want %q", got, want)
				}
				t.Logf("suspended in %v, %d MB on disk, resumed in %v, first answers after %v", suspendTime, list[0].StateBytes>>20, resumeTime, time.Since(began))
			}
		})
	}
}

// TestResumeRejectsADamagedCheckpoint checks that a resume from a damaged checkpoint fails, and that no client can reach
// the sandbox. After the damage is repaired, a resume succeeds.
func TestResumeRejectsADamagedCheckpoint(t *testing.T) {
	t.Parallel()
	image := testImage(t)
	e := open(t, docker.Config{Home: "test-" + string(sandbox.NewID()), Bundle: bundle.Bundle{}, Runtime: "runsc"})
	if e.Info().Suspend != engine.ToDisk {
		skipWithout(t, "runsc", "the engine has no experimental features, so it does not suspend to disk")
	}
	s := spec(image)
	if err := e.Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Remove(context.WithoutCancel(t.Context()), s.ID) })
	execute(t, e, s.ID, sandbox.Python, "kept = bytearray(b'dormouse' * 1000000)")
	suspend := func() (pages *os.File) {
		t.Helper()
		if err := e.Suspend(t.Context(), s.ID); err != nil {
			t.Fatal(err)
		}
		dir, err := e.SavedTo(t.Context(), s.ID)
		if err != nil {
			t.Fatal(err)
		}
		if pages, err = os.OpenFile(filepath.Join(dir, "pages.img"), os.O_RDWR, 0); err != nil {
			skipWithout(t, "runsc", err) // the engine's folder is on another machine, or not accessible to this user
		}
		t.Cleanup(func() { pages.Close() })
		return pages
	}
	suspend()
	if err := e.Resume(t.Context(), s.ID); err != nil {
		t.Fatalf("Resume of an undamaged checkpoint: %v", err)
	}
	pages := suspend()
	info, err := pages.Stat()
	if err != nil {
		t.Fatal(err)
	}
	one := make([]byte, 1)
	at := info.Size() / 2
	if _, err := pages.ReadAt(one, at); err != nil {
		t.Fatal(err)
	}
	if _, err := pages.WriteAt([]byte{one[0] ^ 1}, at); err != nil {
		t.Fatal(err)
	}
	resumed := e.Resume(t.Context(), s.ID)
	var because *sandbox.Error
	if !errors.As(resumed, &because) || because.Kind != sandbox.Expired || !strings.Contains(because.Message, "damaged") {
		t.Fatalf("Resume of a damaged checkpoint = %v, want an error of kind expired that names the damage", resumed)
	}
	if conn, err := e.Dial(t.Context(), s.ID); err == nil {
		conn.Close()
		t.Error("Dial of a sandbox with a damaged checkpoint = nil, want an error")
	}
	if err := e.Fork(t.Context(), s.ID, sandbox.NewID()); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("Fork of a sandbox with a damaged checkpoint = %v, want an error that names the damage", err)
	}
	if _, err := pages.WriteAt(one, at); err != nil {
		t.Fatal(err)
	}
	if err := e.Resume(t.Context(), s.ID); err != nil {
		t.Fatalf("Resume of a repaired checkpoint: %v", err)
	}
	if got := execute(t, e, s.ID, sandbox.Python, "print(kept[:8].decode(), len(kept))"); got != "dormouse 8000000" {
		t.Errorf("the kernel printed %q, want the value from before the suspend", got)
	}
}

// execute runs code in a sandbox's kernel and returns what it prints.
func execute(t *testing.T, e *docker.Engine, id sandbox.ID, language sandbox.Language, code string) string {
	t.Helper()
	client := guest.NewClient(func(ctx context.Context) (net.Conn, error) { return e.Dial(ctx, id) })
	defer client.Close()
	seconds := 120
	got, err := client.Execute(t.Context(), sandbox.NewExecutionID(), sandbox.ExecuteRequest{
		Code: code, Language: language, TimeoutSeconds: &seconds, WaitSeconds: 120})
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
