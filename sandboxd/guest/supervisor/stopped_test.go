//go:build linux

package supervisor_test

import (
	_ "embed"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

//go:embed testdata/stopper.py
var stopper string

// stopEverything runs code that leaves a hostile process behind: after a second, the process sends SIGSTOP to every
// process that it can. stopEverything then starts an execution that never ends by itself, with the given timeout in
// seconds, and returns that execution's id when some process has been stopped.
func (b *testGuest) stopEverything(timeout int) sandbox.ExecutionID {
	b.t.Helper()
	want(b.t, b.python("DELAY = 1\n"+stopper), sandbox.ExecSucceeded)
	id := sandbox.NewExecutionID()
	req := sandbox.ExecuteRequest{Code: "while True: pass", Language: sandbox.Python, TimeoutSeconds: &timeout}
	if _, err := b.Execute(b.t.Context(), id, req); err != nil {
		b.t.Fatal(err)
	}
	b.waitFor("stopped process", func() bool {
		stats, _ := filepath.Glob(b.root + "/proc/[0-9]*/stat")
		for _, path := range stats {
			stat, _ := os.ReadFile(path)
			if _, state, _ := strings.Cut(string(stat), ") "); strings.HasPrefix(state, "T") || strings.HasPrefix(state, "t") {
				return true
			}
		}
		return false
	})
	return id
}

// TestTheGuestEndsWhileCodeStopsProcesses checks that an expired guest ends although hostile code stops processes: the
// dead man's switch depends on no process that a kernel can stop.
func TestTheGuestEndsWhileCodeStopsProcesses(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.stopEverything(600)
	if err := b.SetExpiry(t.Context(), time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	b.waitForExit()
}

// TestTimeoutsAndInterruptsWorkOnStoppedKernels checks that timeouts and interrupts work while hostile code sends
// SIGSTOP to the kernel and traces it.
func TestTimeoutsAndInterruptsWorkOnStoppedKernels(t *testing.T) {
	t.Parallel()
	b := start(t)
	e := b.look(b.stopEverything(3), 60)
	if want(t, e, sandbox.ExecTimedOut); e.StoppedBy != "SIGKILL" {
		t.Errorf("stopped by %s, want SIGKILL", e.StoppedBy)
	}
	want(t, b.python("1"), sandbox.ExecSucceeded)

	id := b.stopEverything(600)
	if e, err := b.Interrupt(t.Context(), id); err != nil || e.State != sandbox.ExecInterrupted {
		t.Errorf("Interrupt() = %s, %v, want %s", e.State, err, sandbox.ExecInterrupted)
	}
	want(t, b.python("1"), sandbox.ExecSucceeded)
	if s, err := b.Status(t.Context()); err != nil || s.Usage.Processes > 1 {
		t.Errorf("%d processes are left, %v, want only the kernel", s.Usage.Processes, err)
	}
}

// TestKernelStoppedDuringStartIsReplaced checks that a kernel that hostile code stops before it is ready blocks its
// lane for at most half a minute, and that the lane then starts another kernel.
func TestKernelStoppedDuringStartIsReplaced(t *testing.T) {
	t.Parallel()
	b := start(t)
	id := b.stopEverything(600)
	js := sandbox.ExecuteRequest{Code: "6 * 7", Language: sandbox.JavaScript, TimeoutSeconds: new(2), WaitSeconds: 100}
	e := b.run(js)
	if want(t, e, sandbox.ExecKernelDied); e.Death.Cause != sandbox.DiedStart || !strings.Contains(e.Reason, "not ready after 30s") {
		t.Errorf("reason = %q, death = %+v, want a kernel that was not ready after 30s", e.Reason, e.Death)
	}
	if e := b.run(js); e.State != sandbox.ExecSucceeded || result(e) != "42" {
		t.Errorf("the next execution: %s, %q, want %s and 42", e.State, e.Reason, sandbox.ExecSucceeded)
	}
	if e, err := b.Interrupt(t.Context(), id); err != nil || e.State != sandbox.ExecInterrupted {
		t.Errorf("Interrupt() = %s, %v, want %s", e.State, err, sandbox.ExecInterrupted)
	}
}
