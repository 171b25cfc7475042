//go:build linux

package gvisor_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor"
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
	t.Parallel()
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
				t.Fatalf("%s: the sandbox runs, want it suspended or dead: %+v", step, c)
			}
			l.suspended = false
			if got := python(t, e, id, "print(x)"); got != strconv.Itoa(l.x) {
				t.Fatalf("%s: x = %s, want %d", step, got, l.x)
			}
		case c.Suspended && c.AsOf.IsZero():
			if !before.suspended && op != "suspend" {
				t.Fatalf("%s: the sandbox is suspended, want it running or fallen back: %+v", step, c)
			}
			l.suspended = true
		case c.Suspended: // the processes of the sandbox died, and it fell back to its checkpoint
			if op != "die" && meanwhile != "kill all" || len(l.fallback) == 0 {
				t.Fatalf("%s: the sandbox fell back to a checkpoint, want that it did not; possible values of x in the fallback checkpoint: %v; %+v", step, l.fallback, c)
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
				t.Fatalf("%s: the sandbox is lost, want that it is not; possible values of x in the fallback checkpoint: %v; %+v", step, before.fallback, c)
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
		t.Errorf("the folders %q exist after Remove, want none", left)
	}
	t.Logf("%v", counts)
}

// The function after updates the expected state l when the operation op has returned err. If a checkpoint or a suspend
// of a running sandbox failed, the new checkpoint may or may not have become the fallback checkpoint. In this case, the
// function adds the current value of x to the possible values in l.fallback.
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

// runInterrupted runs the operation op on a sandbox and returns its error. After delay, it disturbs the operation as
// meanwhile says:
//
//   - "kill command" kills the runsc command
//   - "kill all" kills all processes of the sandbox
//   - "give up" cancels the operation
//   - an empty string does nothing
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
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			left, _ := e.ProcessesOf(id)
			if !slices.ContainsFunc(left, func(pid int) bool { return slices.Contains(pids, pid) }) {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("processes %v, which the test has killed, still run after a minute", left)
				return
			}
		}
	})
	err := map[string]func(context.Context, sandbox.ID) error{"suspend": e.Suspend, "checkpoint": e.Checkpoint, "resume": e.Resume}[op](ctx, id)
	close(stop)
	group.Wait()
	return err
}
