//go:build linux

package supervisor

import (
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestExplainMemory: the reason of an execution names memory if, and only if, memory was the cause of the failure.
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
			s.explainMemory(e, &o)
			if got := strings.Contains(o.reason, "of its memory limit of 1 GiB") && strings.Contains(o.reason, "memory_mb"); got != test.memory {
				t.Errorf("reason = %q, want memory named: %t", o.reason, test.memory)
			}
		})
	}
}
