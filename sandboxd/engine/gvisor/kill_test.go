//go:build linux

package gvisor_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/bundle"
)

// TestRunscKilledAtAnyMoment checks that if a runsc command is killed at any moment of a suspend or resume, the sandbox
// is in the state before or after the operation, and loses nothing.
func TestRunscKilledAtAnyMoment(t *testing.T) {
	image, dir := anyImage(t), tempDir(t)
	e := open(t, dir, bundle.Bundle{})
	s := spec(image)
	create(t, e, s)
	python(t, e, s.ID, "x = 0")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	failed := 0
	for round := range 12 {
		for _, step := range []struct {
			command string
			run     func() error
		}{
			{"checkpoint", func() error { return e.Suspend(t.Context(), s.ID) }},
			{"restore", func() error { return e.Resume(t.Context(), s.ID) }},
		} {
			stop := make(chan struct{})
			done := make(chan struct{})
			delay := time.Duration(random.IntN(250)) * time.Millisecond
			go func() {
				defer close(done)
				killCommand(dir, step.command, delay, stop)
			}()
			err := step.run()
			close(stop)
			<-done
			if err != nil {
				failed++
				t.Logf("round %d: %s, killed after %v: %.200s", round, step.command, delay, err)
			}
		}
		list, err := e.List(t.Context())
		if err != nil || len(list) != 1 || list[0].Running == list[0].Suspended {
			t.Fatalf("List() = %+v, %v, want one that runs or is suspended", list, err)
		}
		if list[0].Suspended {
			if err := e.Resume(t.Context(), s.ID); err != nil {
				t.Fatalf("Resume: %v", err)
			}
		}
		if got, want := python(t, e, s.ID, "x += 1; print(x)"), strconv.Itoa(round+1); got != want {
			t.Fatalf("x = %s, want %s", got, want)
		}
	}
	t.Logf("%d calls failed", failed)
	if err := e.Remove(t.Context(), s.ID); err != nil {
		t.Error(err)
	}
	wantNothingRuns(t, e, s.ID)
}

// killCommand waits until a runsc process of the home dir runs the command. It then waits for the given time, kills the
// process and returns. It returns early when stop is closed.
func killCommand(dir, command string, after time.Duration, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(2 * time.Millisecond):
		}
		var found []int
		for _, pid := range runscOf(dir + "/") {
			text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if strings.Contains(string(text), "\x00"+command+"\x00") {
				found = append(found, pid)
			}
		}
		if len(found) == 0 {
			continue
		}
		select {
		case <-stop:
		case <-time.After(after):
			for _, pid := range found {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		return
	}
}
