package manager_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/docker"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/bundle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// dockerEngine opens the engine of this machine. At the end of the test it removes all remaining containers.
func dockerEngine(t testing.TB) (eng *docker.Engine, image string) {
	t.Helper()
	missing := func(why any) {
		if slices.Contains(strings.Split(os.Getenv("DORMOUSE_TEST_REQUIRE"), ","), "docker") {
			t.Fatalf("docker is required (DORMOUSE_TEST_REQUIRE) but not available: %v", why)
		}
		t.Skipf("NOT TESTED: no docker: %v", why)
	}
	if image = os.Getenv("DORMOUSE_TEST_IMAGE"); image == "" {
		missing("DORMOUSE_TEST_IMAGE names no sandbox image")
	}
	home := strings.ReplaceAll(filepath.Base(filepath.Dir(t.TempDir())), "/", "-") + "-" + string(sandbox.NewID())[4:12]
	eng, err := docker.New(t.Context(), docker.Config{Home: home, Bundle: bundle.Bundle{}, Runtime: os.Getenv("DORMOUSE_TEST_RUNTIME")})
	if err != nil {
		missing(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		remaining, _ := eng.List(ctx)
		for _, c := range remaining {
			_ = eng.Remove(ctx, c.ID)
		}
		_ = eng.Close()
	})
	return eng, image
}

func startOnDocker(t testing.TB, path string, eng *docker.Engine, image string) *daemon {
	t.Helper()
	return startDaemon(t, path, eng, func(c *manager.Config) { c.DefaultImage = image })
}

// TestDockerLifeCycle checks a real sandbox: variables, files, an interrupt, a killed daemon, an expiry, and
// a container that is removed without the manager.
func TestDockerLifeCycle(t *testing.T) {
	eng, image := dockerEngine(t)
	ctx := t.Context()
	d := startOnDocker(t, filepath.Join(t.TempDir(), "a.db"), eng, image)
	began := time.Now()
	sb := d.create(t, sandbox.CreateRequest{DisplayName: "x", MemoryMB: 512})
	first := d.execute(t, sb.ID, "x = 41", 30)
	t.Logf("create and first statement: %v", time.Since(began))
	if e := d.execute(t, sb.ID, "print(x + 1)", 10); output(e) != "42\n" || e.KernelEpoch != first.KernelEpoch {
		t.Errorf("print(x + 1) = %+v, want 42 from the same kernel", e)
	}
	if _, err := d.WriteFile(ctx, "x", "in.bin", bytes.NewReader(make([]byte, 1<<20))); err != nil {
		t.Errorf("WriteFile() = %v", err)
	}
	body, f, err := d.ReadFile(ctx, "x", "in.bin", 10, 20)
	if err != nil {
		t.Fatalf("ReadFile() = %v", err)
	}
	if part, err := io.ReadAll(body); len(part) != 20 || f.Size != 1<<20 || err != nil {
		t.Errorf("ReadFile() = %d of %d bytes, %v, want 20", len(part), f.Size, err)
	}
	body.Close()
	loop := d.execute(t, sb.ID, "while True: pass", 0)
	if e, err := d.Interrupt(ctx, string(loop.ID)); err != nil || e.State != sandbox.ExecInterrupted {
		t.Errorf("Interrupt() = %+v, %v, want it interrupted", e, err)
	}

	code := "import time\nfor i in range(100):\n    print(i, flush=True)\n    time.sleep(0.02)\nx += 1"
	running, err := d.Execute(ctx, "x", sandbox.ExecuteRequest{Code: code, RequestID: "r"})
	if err != nil {
		t.Fatal(err)
	}
	next := startOnDocker(t, crash(t, d), eng, image)
	defer next.stop(t)
	again, err := next.Execute(ctx, "x", sandbox.ExecuteRequest{Code: code, RequestID: "r", WaitSeconds: 30})
	if err != nil || again.ID != running.ID || again.State != sandbox.ExecSucceeded || strings.Count(output(again), "\n") != 100 {
		t.Errorf("after the crash: %+v, %v, want %s succeeded with 100 lines", again, err, running.ID)
	}
	if e := next.execute(t, sb.ID, "x", 10); len(e.Events) == 0 || e.KernelEpoch != first.KernelEpoch {
		t.Errorf("x = %+v, want the value of x from the same kernel", e)
	}

	if err := eng.Remove(ctx, sb.ID); err != nil { // as docker rm -f does
		t.Fatal(err)
	}
	_, err = next.Execute(ctx, "x", sandbox.ExecuteRequest{Code: "x"})
	wantError(t, "Execute after docker rm -f", err, sandbox.Expired, "variables and files are lost")

	short := next.create(t, sandbox.CreateRequest{TTL: ttl(2 * time.Second), MemoryMB: 256})
	waitUntil(t, "the container of the expired sandbox is removed", func() bool { all, err := eng.List(ctx); return err == nil && len(all) == 0 })
	rec, err := next.store.Sandbox(ctx, short.ID)
	if late := rec.EndTime.Sub(rec.ExpireTime); err != nil || late < 0 || late > time.Second {
		t.Errorf("the sandbox was terminated %v after its expiry, %v, want at most 1s", late, err)
	}
}

// BenchmarkDocker measures a call in a live sandbox, from the manager to the kernel and back.
func BenchmarkDocker(b *testing.B) {
	eng, image := dockerEngine(b)
	d := startOnDocker(b, filepath.Join(b.TempDir(), "a.db"), eng, image)
	defer d.stop(b)
	sb := d.create(b, sandbox.CreateRequest{MemoryMB: 512})
	d.execute(b, sb.ID, "print(1)", 30)
	for b.Loop() {
		d.execute(b, sb.ID, "print(1)", 30)
	}
}
