//go:build linux

package supervisor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestExplainMemory checks that the reason of a failed execution names memory if a lack of memory was the cause, and
// only then.
func TestExplainMemory(t *testing.T) {
	tests := []struct {
		name, message string
		memory        bool
	}{
		{"MemoryError", "", true},
		{"_ArrayMemoryError", "Unable to allocate 8.00 GiB for an array", true},
		{"RuntimeError", "can't start new thread", true},
		{"OSError", "[Errno 12] Cannot allocate memory", true},
		{"RuntimeError", "std::bad_alloc", true},
		{"OutOfMemoryException", "Out of Memory Error: failed to allocate data", true},
		{"TerminatedWorkerError", "A worker process was terminated. This could be caused by excessive memory usage", true},
		{"RangeError", "Array buffer allocation failed", true},
		{"Error", "spawn ENOMEM", true},
		{"ValueError", "the memory of an elephant", false},
		{"KeyError", "thread", false},
		{"FileNotFoundError", "[Errno 2] No such file or directory: 'x'", false},
	}
	for _, test := range tests {
		t.Run(test.name+" "+test.message, func(t *testing.T) {
			s := &Supervisor{config: Config{UID: 1, Memory: 1 << 30, Processes: 100}}
			s.watchdog = newWatchdog(s)
			timeout := 1
			e := newExecution("exec_x", sandbox.ExecuteRequest{TimeoutSeconds: &timeout}, nil)
			e.record.Error = &sandbox.CodeError{Name: test.name, Message: test.message}
			o := outcome{state: sandbox.ExecFailed}
			s.explainMemory(e, &o, s.watchdog.kills())
			if got := strings.Contains(o.reason, "of its memory limit of 1 GiB") && strings.Contains(o.reason, "memory_mb"); got != test.memory {
				t.Errorf("reason = %q, want memory named: %t", o.reason, test.memory)
			}
		})
	}
}

// withOOMKiller returns a supervisor that reads the OOM killer's count from a test file, and a function that sets that
// count.
func withOOMKiller(t *testing.T) (s *Supervisor, set func(kills int)) {
	s = &Supervisor{config: Config{UID: 1, Memory: 1 << 30, Processes: 100}}
	s.watchdog = newWatchdog(s)
	s.watchdog.meter.OOMEvents = filepath.Join(t.TempDir(), "memory.events")
	set = func(kills int) {
		if err := os.WriteFile(s.watchdog.meter.OOMEvents, fmt.Appendf(nil, "oom_kill %d\n", kills), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	set(0)
	return s, set
}

// TestKillIsReportedByTheExecutionsThatOverlapIt checks that, if a process is killed while executions of both lanes
// run, both executions report the kill, and neither attributes it to its own code. An execution that begins after the
// kill does not report it.
func TestKillIsReportedByTheExecutionsThatOverlapIt(t *testing.T) {
	timeout := 1
	reason := func(s *Supervisor, before killCount) string {
		o := outcome{state: sandbox.ExecSucceeded}
		s.explainMemory(newExecution("exec_x", sandbox.ExecuteRequest{TimeoutSeconds: &timeout}, nil), &o, before)
		return o.reason
	}
	for name, kill := range map[string]func(*Supervisor, func(int)){
		"by the OOM killer": func(_ *Supervisor, set func(int)) { set(1) },
		"by the watchdog":   func(s *Supervisor, _ func(int)) { s.watchdog.strays.Add(1) },
		"by both":           func(s *Supervisor, set func(int)) { set(2); s.watchdog.strays.Add(1) },
	} {
		t.Run(name, func(t *testing.T) {
			s, set := withOOMKiller(t)
			python, javascript := s.watchdog.kills(), s.watchdog.kills()
			kill(s, set)
			for _, before := range []killCount{python, javascript} {
				if got, want := reason(s, before), "a process in the sandbox was killed because memory ran out: "; !strings.HasPrefix(got, want) {
					t.Errorf("reason = %q, want it to begin with %q", got, want)
				}
			}
			if got := reason(s, s.watchdog.kills()); got != "" {
				t.Errorf("reason of an execution that began after the kill = %q, want none", got)
			}
		})
	}
}

// TestKernelsThatTheOOMKillerKilled checks that the cause of a kernel's death is a lack of memory if SIGKILL ended the
// kernel and the OOM killer's count is higher than in the parameter before of causeOfDeath, and only then.
func TestKernelsThatTheOOMKillerKilled(t *testing.T) {
	s, set := withOOMKiller(t)
	cause := func(before killCount) sandbox.DeathCause {
		return s.causeOfDeath(&kernel{status: syscall.WaitStatus(syscall.SIGKILL)}, sandbox.KernelDeath{}, sandbox.Python, before).Cause
	}
	before := s.watchdog.kills()
	set(2)
	for _, kernel := range []string{"first", "second"} {
		if got := cause(before); got != sandbox.DiedOutOfMemory {
			t.Errorf("cause of the %s kernel's death = %s, want %s", kernel, got, sandbox.DiedOutOfMemory)
		}
	}
	if got := cause(s.watchdog.kills()); got != sandbox.DiedSignal {
		t.Errorf("cause of a later death = %s, want %s", got, sandbox.DiedSignal)
	}
}
