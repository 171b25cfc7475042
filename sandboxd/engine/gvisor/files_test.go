//go:build linux

package gvisor_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/bundle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestACheckpointOfManyFilesLeavesAMargin checks that a sandbox with the maximum number of files, and with most of its
// memory in use, can be checkpointed several times without using more than 90 % of the memory limit of its cgroup.
// Reaching that limit would kill the sandbox.
func TestACheckpointOfManyFilesLeavesAMargin(t *testing.T) {
	image, dir := anyImage(t), tempDir(t)
	e := open(t, dir, bundle.Bundle{})
	s := spec(image)
	s.Limits.MemoryBytes = 256 * sandbox.MiB
	create(t, e, s)
	fillWithFiles(t, e, s.ID)
	count := "sum(len(files) for _, _, files in os.walk('/workspace'))"
	files := python(t, e, s.ID, "import os; block = os.urandom(100 << 20); print("+count+")")
	t.Logf("there are %s files", files)
	for n := range 3 {
		if err := e.Checkpoint(t.Context(), s.ID); err != nil {
			t.Fatalf("checkpoint %d: %v", n+1, err)
		}
		peak, limit := memoryOf(t, string(s.ID))
		t.Logf("checkpoint %d: at most %d of %d MiB were used", n+1, peak>>20, limit>>20)
		if peak > limit*90/100 {
			t.Errorf("checkpoint %d took the sandbox to %d of %d MiB, want at most 90 %%", n+1, peak>>20, limit>>20)
		}
	}
	if err := e.Suspend(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	if err := e.Resume(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	if got := python(t, e, s.ID, "print("+count+")"); got != files {
		t.Errorf("there are %s files, want %s", got, files)
	}
}

// TestACheckpointOfManyFilesKeepsTheKernels checks that both kernels of a sandbox keep their variables after a
// checkpoint of many files. Such a checkpoint leaves garbage in gVisor's own memory. If this garbage counted as the
// sandbox's memory, the guest would stop a kernel.
func TestACheckpointOfManyFilesKeepsTheKernels(t *testing.T) {
	e := open(t, tempDir(t), bundle.Bundle{})
	s := spec(anyImage(t))
	s.Limits.MemoryBytes, s.Limits.WorkspaceBytes = 2048*sandbox.MiB, 1024*sandbox.MiB
	create(t, e, s)
	client := guest.NewClient(func(ctx context.Context) (net.Conn, error) { return e.Dial(ctx, s.ID) })
	defer client.Close()
	run := func(language sandbox.Language, code string) {
		t.Helper()
		seconds := 300
		got, err := client.Execute(t.Context(), sandbox.NewExecutionID(), sandbox.ExecuteRequest{Language: language, TimeoutSeconds: &seconds, WaitSeconds: 300, Code: code})
		if err != nil || got.State != sandbox.ExecSucceeded {
			t.Fatalf("Execute(%s): %s, %s, %+v, %v, want that it succeeds", code, got.State, got.Reason, got.Error, err)
		}
	}
	run(sandbox.JavaScript, "var kept = 42")
	run(sandbox.Python, `
import os
block = os.urandom(1 << 20) * 700
for folder in range(120):
    os.mkdir(f'/workspace/{folder}')
    for file in range(1000):
        with open(f'/workspace/{folder}/{file}', 'wb') as f: f.write(block[:4096])`)
	if err := e.Checkpoint(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	run(sandbox.Python, "assert len(block) == 700 << 20")
	run(sandbox.JavaScript, "if (kept !== 42) throw new Error(kept)")
	if err := e.Suspend(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	if err := e.Resume(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	run(sandbox.Python, "assert len(block) == 700 << 20")
	run(sandbox.JavaScript, "if (kept !== 42) throw new Error(kept)")
}

// fillWithFiles runs code that creates files until the guest stops the kernel that runs the code.
func fillWithFiles(t *testing.T, e *gvisor.Engine, id sandbox.ID) {
	t.Helper()
	client := guest.NewClient(func(ctx context.Context) (net.Conn, error) { return e.Dial(ctx, id) })
	defer client.Close()
	seconds := 300
	got, err := client.Execute(t.Context(), sandbox.NewExecutionID(), sandbox.ExecuteRequest{Language: sandbox.Python, TimeoutSeconds: &seconds, WaitSeconds: 300, Code: `
import os
for folder in range(10**6):
    os.mkdir(f'/workspace/{folder}')
    for file in range(1000): os.close(os.open(f'/workspace/{folder}/{file}' + 'x' * 100, os.O_CREAT | os.O_WRONLY))`})
	if err != nil || got.State == sandbox.ExecSucceeded || got.State == sandbox.ExecRunning {
		t.Fatalf("Execute = %+v, %v, want the kernel stopped for its files", got, err)
	}
}

// memoryOf returns the peak memory use and the memory limit of a sandbox's cgroup, in bytes. name is the cgroup's name.
func memoryOf(t *testing.T, name string) (peak, limit int64) {
	t.Helper()
	for _, version := range []struct{ dir, peak, limit string }{
		{"/sys/fs/cgroup/memory/dormouse", "memory.max_usage_in_bytes", "memory.limit_in_bytes"},
		{"/sys/fs/cgroup/dormouse", "memory.peak", "memory.max"},
	} {
		dir := filepath.Join(version.dir, name)
		used, err := os.ReadFile(filepath.Join(dir, version.peak))
		maximum, limitErr := os.ReadFile(filepath.Join(dir, version.limit))
		if err != nil || limitErr != nil {
			continue
		}
		peak, err = strconv.ParseInt(strings.TrimSpace(string(used)), 10, 64)
		limit, limitErr = strconv.ParseInt(strings.TrimSpace(string(maximum)), 10, 64)
		if err != nil || limitErr != nil {
			t.Fatal(err, limitErr)
		}
		return peak, limit
	}
	missing(t, "cgroups", "no cgroup says what the sandbox has used: cgroup v1, or v2 from Linux 5.19")
	return 0, 0
}
