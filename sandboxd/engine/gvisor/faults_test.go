//go:build linux

package gvisor_test

import (
	"archive/tar"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/enginetest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/rootfs/rootfstest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/bundle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// expectedState is the state that a test expects of a sandbox.
type expectedState struct {
	x         int   // the value of x in the memory or, if the sandbox is suspended, in the checkpoint
	suspended bool  // true if the sandbox was suspended by Suspend, and so has lost nothing
	fallback  []int // the possible values of x in the fallback checkpoint
	// If mayBeLost is true, it is also possible that there is no fallback checkpoint, even if fallback is not empty.
	mayBeLost bool
}

// TestAnyOrderOfSuspendsAndKills checks that after any sequence of operations on a sandbox, with processes killed at
// random moments, the sandbox has the state of the last operation that succeeded. An interrupted operation must have
// taken effect completely or not at all.
func TestAnyOrderOfSuspendsAndKills(t *testing.T) {
	image, dir := anyImage(t), tempDir(t)
	e := openPacking(t, dir, 300*time.Millisecond)
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("DORMOUSE_TEST_SEED"); text != "" {
		seed, _ = strconv.ParseUint(text, 10, 64)
	}
	rounds := 50
	if text := os.Getenv("DORMOUSE_TEST_ROUNDS"); text != "" {
		rounds, _ = strconv.Atoi(text)
	}
	t.Logf("DORMOUSE_TEST_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	counts := map[string]int{}
	var id sandbox.ID
	var l expectedState
	fresh := func() {
		s := spec(image)
		s.Limits.MemoryBytes = 512 * sandbox.MiB
		if err := e.Create(t.Context(), s); err != nil {
			t.Fatalf("Create: %v", err)
		}
		id, l = s.ID, expectedState{}
		python(t, e, id, "x = 0")
	}
	fresh()
	for round := range rounds {
		op := []string{"suspend", "suspend", "suspend", "checkpoint", "checkpoint", "resume", "die", "reopen", "discard", "fork"}[random.IntN(10)]
		meanwhile := []string{"", "", "kill command", "kill all", "give up"}[random.IntN(5)]
		delay := time.Duration(random.IntN(300)) * time.Millisecond
		counts[op]++
		step := fmt.Sprintf("round %d, %s, %s after %v", round, op, meanwhile, delay)
		if l.suspended && op == "suspend" {
			op = "resume"
		}
		if !l.suspended {
			l.x++
			python(t, e, id, fmt.Sprintf("assert x == %d; x += 1", l.x-1))
		}
		before := l
		switch op {
		case "suspend", "checkpoint", "resume":
			err := runInterrupted(t, e, id, dir, op, meanwhile, delay)
			if err != nil {
				counts["failed"]++
			}
			l.after(t, step, op, err)
		case "die":
			if !l.suspended {
				kill(t, e, id)
			}
		case "reopen":
			if err := e.Close(); err != nil {
				t.Fatalf("%s: %v", step, err)
			}
			e = openPacking(t, dir, 300*time.Millisecond)
		case "discard":
			if err := e.Discard(t.Context(), id); err != nil {
				t.Fatalf("%s: %v", step, err)
			}
			if !l.suspended {
				l.fallback, l.mayBeLost = nil, false
			}
		case "fork":
			copied := sandbox.NewID()
			if err := e.Fork(t.Context(), id, copied); err != nil {
				t.Fatalf("%s: %v", step, err)
			}
			if got := python(t, e, copied, "print(x)"); got != strconv.Itoa(l.x) {
				t.Fatalf("%s: the fork has x = %s, want %d", step, got, l.x)
			}
			if err := e.Remove(t.Context(), copied); err != nil {
				t.Fatalf("%s: %v", step, err)
			}
		}
		c := onlyContainer(t, e)
		switch {
		case c.Running:
			if l.suspended && op != "resume" || op == "die" && !before.suspended {
				t.Fatalf("%s: it runs: %+v", step, c)
			}
			l.suspended = false
			if got := python(t, e, id, "print(x)"); got != strconv.Itoa(l.x) {
				t.Fatalf("%s: x = %s, want %d", step, got, l.x)
			}
		case c.Suspended && c.AsOf.IsZero():
			if !before.suspended && op != "suspend" {
				t.Fatalf("%s: it is suspended: %+v", step, c)
			}
			l.suspended = true
		case c.Suspended: // the processes of the sandbox died, and it fell back to its checkpoint
			if op != "die" && meanwhile != "kill all" || len(l.fallback) == 0 {
				t.Fatalf("%s: it fell back, with %v kept: %+v", step, l.fallback, c)
			}
			if err := e.Resume(t.Context(), id); err != nil {
				t.Fatalf("%s: Resume: %v", step, err)
			}
			x, err := strconv.Atoi(python(t, e, id, "print(x)"))
			if err != nil || x != l.fallback[0] && x != l.fallback[len(l.fallback)-1] {
				t.Fatalf("%s: x = %d, %v, want one of %v", step, x, err, l.fallback)
			}
			l = expectedState{x: x, fallback: []int{x}}
			counts["fell back"]++
		default:
			if op != "die" && meanwhile != "kill all" || len(before.fallback) > 0 && !before.mayBeLost || before.suspended {
				t.Fatalf("%s: it is lost, with %v kept: %+v", step, before.fallback, c)
			}
			if err := e.Remove(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			wantNothingRuns(t, e, id)
			fresh()
			counts["lost"]++
		}
		if l.suspended {
			wantNothingRuns(t, e, id)
		}
		if t.Failed() {
			t.Fatal(step)
		}
	}
	if err := e.Remove(t.Context(), id); err != nil {
		t.Error(err)
	}
	wantNothingRuns(t, e, id)
	if left, _ := filepath.Glob(filepath.Join(dir, "sandboxes", "*")); len(left) > 0 {
		t.Errorf("%q are left", left)
	}
	t.Logf("%v", counts)
}

// after updates the expected state after an operation, which returned err. If a checkpoint or a suspend of a running
// sandbox failed, the new checkpoint may or may not have become the fallback checkpoint. after then adds a possible
// value to fallback.
func (l *expectedState) after(t *testing.T, step, op string, err error) {
	t.Helper()
	switch {
	case op == "suspend" && err == nil:
		l.suspended, l.fallback, l.mayBeLost = true, nil, false
	// The new checkpoint may have been saved before the operation failed.
	case op == "suspend" || op == "checkpoint" && err != nil && !l.suspended:
		l.mayBeLost = l.mayBeLost || len(l.fallback) == 0
		l.fallback = append(l.fallback, l.x)
	case op == "checkpoint" && !l.suspended, op == "resume" && err == nil && l.suspended:
		l.fallback, l.mayBeLost = []int{l.x}, false
	case op == "resume" && err != nil && !l.suspended:
		// The sandbox was running, and its processes were killed before Resume checked them.
		t.Logf("%s: %v", step, err)
	}
}

// runInterrupted runs the operation op on a sandbox and returns its error. After delay, it disturbs the operation in
// the way that the parameter meanwhile selects: "kill command" kills the runsc command, "kill all" kills all processes
// of the sandbox, and "give up" cancels the operation. If meanwhile is empty, the operation is not disturbed.
func runInterrupted(t *testing.T, e *gvisor.Engine, id sandbox.ID, dir, op, meanwhile string, delay time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stop := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		switch meanwhile {
		case "kill command":
			killCommand(dir, map[string]string{"suspend": "checkpoint", "checkpoint": "checkpoint", "resume": "restore"}[op], delay, stop)
			return
		case "":
			return
		}
		select {
		case <-time.After(delay):
		case <-stop:
			return
		}
		if meanwhile == "give up" {
			cancel()
			return
		}
		pids, _ := e.ProcessesOf(id) // pids is empty if no process of the sandbox runs
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		// Wait until the killed processes have ended. A process with much memory takes long to end.
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			left, _ := e.ProcessesOf(id)
			if !slices.ContainsFunc(left, func(pid int) bool { return slices.Contains(pids, pid) }) {
				return
			}
		}
	})
	err := map[string]func(context.Context, sandbox.ID) error{"suspend": e.Suspend, "checkpoint": e.Checkpoint, "resume": e.Resume}[op](ctx, id)
	close(stop)
	group.Wait()
	return err
}

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
		t.Fatalf("Checkpoint of what is small: %v", err)
	}
	python(t, e, s.ID, "import os; block = os.urandom(200 << 20); x = 2")
	if err := e.Checkpoint(t.Context(), s.ID); sandbox.KindOf(err) != sandbox.Unavailable {
		t.Errorf("Checkpoint = %v, want unavailable", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "sandboxes", "*", "checkpoint*")); len(left) > 0 {
		t.Errorf("%q are left", left)
	}
	if got := python(t, e, s.ID, "print(x, len(block))"); got != "2 209715200" {
		t.Errorf("it printed %q", got)
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
	awaitPacked(t, e, dir, s.ID)
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
	image := anyImage(t)
	e := open(t, tempDir(t), bundle.Bundle{})
	s := spec(image)
	create(t, e, s)
	python(t, e, s.ID, "import hashlib, subprocess, time")
	for name, code := range map[string]string{
		"in C":                "print(len(hashlib.pbkdf2_hmac('sha256', b'a', b'b', 6_000_000)))",
		"in C, with the lock": "print(32 if 3 ** 10_000_000 % 7 else 0)",
		"asleep":              "time.sleep(3); print(32)",
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
				t.Errorf("Execution = %+v, %v, want it to print 32", got, err)
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
			awaitPacked(t, e, dir, s.ID)
		}
		t.Logf("on disk: %d MB", onlyContainer(t, e).StateBytes>>20)
		began = time.Now()
		if err := e.Resume(t.Context(), s.ID); err != nil {
			t.Fatalf("Resume: %v", err)
		}
		t.Logf("resume: %v", time.Since(began))
		if got := python(t, e, s.ID, "print(len(block) >> 20, zlib.crc32(block) == sum)"); got != "1024 True" {
			t.Errorf("it printed %q", got)
		}
	}
}
