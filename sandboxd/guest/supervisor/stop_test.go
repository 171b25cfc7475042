//go:build linux

package supervisor_test

import (
	_ "embed"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

func TestStopping(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.python("kept = 42")

	t.Run("an interrupt keeps the variables", func(t *testing.T) {
		b.t = t
		id := b.begin("print('on')\nwhile True: pass", 60)
		e, err := b.Interrupt(t.Context(), id)
		if err != nil || e.State != sandbox.ExecInterrupted || e.StoppedBy != "SIGINT" {
			t.Errorf("Interrupt() = %+v, %v, want interrupted by SIGINT", e, err)
		}
		if got := result(b.python("kept")); got != "42" {
			t.Errorf("kept = %s, want 42", got)
		}
		if e, err := b.Interrupt(t.Context(), id); err != nil || e.State != sandbox.ExecInterrupted {
			t.Errorf("a second Interrupt() = %+v, %v, want interrupted", e, err)
		}
	})
	t.Run("a timeout keeps the variables", func(t *testing.T) {
		b.t = t
		e := b.run(sandbox.ExecuteRequest{Code: "import time; time.sleep(600)", Language: sandbox.Python, TimeoutSeconds: new(1)})
		want(t, e, sandbox.ExecTimedOut)
		if took := e.EndTime.Sub(e.StartTime); e.StoppedBy != "SIGINT" || took < time.Second {
			t.Errorf("stopped by %s after %s, want SIGINT after at least a second", e.StoppedBy, took)
		}
		if got := result(b.python("kept")); got != "42" {
			t.Errorf("kept = %s, want 42", got)
		}
	})
	t.Run("subprocesses of the execution are killed, earlier ones are not", func(t *testing.T) {
		b.t = t
		b.python("import subprocess, time; early = subprocess.Popen(['sleep', '600'], start_new_session=True)\ntime.sleep(.05)")
		e := b.run(sandbox.ExecuteRequest{
			Code:           "late = subprocess.Popen(['sh', '-c', 'trap \"\" INT; setsid sleep 600 & sleep 600'])\nlate.wait()",
			Language:       sandbox.Python,
			TimeoutSeconds: new(1),
		})
		want(t, e, sandbox.ExecTimedOut)
		if got := result(b.python("early.poll(), late.poll()")); got != "(None, -9)" {
			t.Errorf("early, late = %s, want (None, -9)", got)
		}
	})
	t.Run("an execution that catches the interrupt is interrupted", func(t *testing.T) {
		b.t = t
		id := b.begin("import time\nprint('on')\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('caught')", 60)
		e, err := b.Interrupt(t.Context(), id)
		if err != nil || e.State != sandbox.ExecInterrupted || !strings.Contains(e.Reason, "handled") {
			t.Errorf("Interrupt() = %+v, %v, want interrupted, with the reason that the code handled the signal", e, err)
		}
	})
}

func TestCodeThatIgnoresSignalsIsKilled(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.python("kept = 42")
	id := b.begin("import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True:\n    try: print('on', flush=True); time.sleep(60)\n    except KeyboardInterrupt: pass", 60)
	waiting := sandbox.NewExecutionID()
	if _, err := b.Execute(t.Context(), waiting, sandbox.ExecuteRequest{Code: "'kept' in globals()", Language: sandbox.Python}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	e, err := b.Interrupt(t.Context(), id)
	if err != nil || e.State != sandbox.ExecInterrupted || e.StoppedBy != "SIGKILL" || e.Death == nil || e.Death.Cause != sandbox.DiedStopped {
		t.Errorf("Interrupt() = %+v, %+v, %v, want a kernel that SIGKILL stopped", e, e.Death, err)
	}
	if took := time.Since(began); took < 7*time.Second {
		t.Errorf("the kernel was killed after %s, want at least 7s for the other signals", took)
	}
	next := b.look(waiting, 60)
	if want(t, next, sandbox.ExecSucceeded); result(next) != "False" || next.KernelEpoch != 2 {
		t.Errorf("the queued execution = %+v, want one in a new kernel", next)
	}
}

func TestForkBomb(t *testing.T) {
	t.Parallel()
	b := start(t, with("memory", strconv.Itoa(64<<30))) // a high limit, because this test's guest counts a page that forked processes share once for each process
	b.python("kept = 42")
	e := b.run(sandbox.ExecuteRequest{
		Code:           "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
		Language:       sandbox.Python,
		TimeoutSeconds: new(1),
	})
	want(t, e, sandbox.ExecTimedOut)
	t.Logf("stopped by %s after %s: %s", e.StoppedBy, e.EndTime.Sub(e.StartTime), e.Reason)
	want(t, b.python("1"), sandbox.ExecSucceeded)
	if s, err := b.Status(t.Context()); err != nil || s.Usage.Processes > 3 {
		t.Errorf("%d processes are left, %v, want at most 3", s.Usage.Processes, err)
	}
}

//go:embed testdata/bomb.py
var bomb string

// TestForkBombInMachineCode checks that a fork bomb that does not react to the first SIGINT is killed a second later,
// without the other stopSignals.
func TestForkBombInMachineCode(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("NOT TESTED: the bomb is code for amd64")
	}
	t.Parallel()
	for _, leave := range []string{"False", "True"} {
		t.Run("leaves its session: "+leave, func(t *testing.T) {
			b := start(t, with("memory", strconv.Itoa(64<<30))) // a high limit, because this test's guest counts a page that forked processes share once for each process
			e := b.run(sandbox.ExecuteRequest{Code: "LEAVE = " + leave + "\n" + bomb, Language: sandbox.Python, TimeoutSeconds: new(2)})
			if want(t, e, sandbox.ExecTimedOut); e.StoppedBy != "SIGKILL" {
				t.Errorf("stopped by %s, want SIGKILL", e.StoppedBy)
			}
			t.Logf("a timeout of 2s took %s", e.EndTime.Sub(e.StartTime))
			want(t, b.python("1"), sandbox.ExecSucceeded)
			if s, err := b.Status(t.Context()); err != nil || s.Usage.Processes > 1 {
				t.Errorf("%d processes are left, %v, want only the kernel", s.Usage.Processes, err)
			}
		})
	}
}

// TestForkChain checks that the guest ends chains of processes. Each process of a chain forks the next one and exits at
// once, and the next one leaves the process group. So a search for processes hardly ever finds one of them.
func TestForkChain(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.python(`
import os
for _ in range(3):
    if os.fork() == 0:
        while True:
            if os.fork(): os._exit(0)
            os.setsid()
`)
	want(t, b.python("os._exit(7)"), sandbox.ExecKernelDied)
	want(t, b.python("1"), sandbox.ExecSucceeded)
	if s, err := b.Status(t.Context()); err != nil || s.Usage.Processes > 2 {
		t.Errorf("%d processes are left, %v, want at most 2", s.Usage.Processes, err)
	}
}
