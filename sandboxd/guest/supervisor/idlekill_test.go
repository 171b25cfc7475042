//go:build linux

package supervisor_test

import (
	"strconv"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestKillBetweenExecutionsIsNotReported checks that, if a process is killed for lack of memory while no execution
// runs, the next execution does not report the kill.
func TestKillBetweenExecutionsIsNotReported(t *testing.T) {
	t.Parallel()
	b := start(t, with("memory", strconv.Itoa(512<<20)))
	want(t, b.python(`
import subprocess, sys
hoarder = subprocess.Popen([sys.executable, '-c', '''
import time
hoard = [b"x" * (300 << 20)]
while True:
    hoard.append(b"x" * (1 << 20)); time.sleep(.02)
'''], start_new_session=True)
`), sandbox.ExecSucceeded)
	b.waitFor("end of the process that fills the memory", func() bool {
		s, err := b.Status(t.Context())
		return err == nil && s.Usage.Processes == 1
	})
	e := b.python("hoarder.wait()")
	if got := result(e); e.State != sandbox.ExecSucceeded || got != "-9" {
		t.Fatalf("state = %s (%s), hoarder.wait() = %q, want succeeded and -9", e.State, e.Reason, got)
	}
	if e.Reason != "" {
		t.Errorf("reason = %q, want none", e.Reason)
	}
}

// TestOOMKillerPrefersTheKernelThatRuns checks that a kernel with an execution has a higher oom_score_adj than an idle
// kernel.
func TestOOMKillerPrefersTheKernelThatRuns(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.requireNode()
	node := result(b.javascript("process.pid"))
	python := result(b.python("import os; os.getpid()"))
	if got := result(b.python("[open(f'/proc/{pid}/oom_score_adj').read().strip() for pid in (" + node + ", 'self')]")); got != "['600', '1000']" {
		t.Errorf("oom_score_adj of the idle JavaScript kernel and the running Python kernel = %s, want ['600', '1000']", got)
	}
	if got := result(b.javascript("[" + python + ", 'self'].map(pid => require('fs').readFileSync(`/proc/${pid}/oom_score_adj`, 'utf8').trim()).join()")); got != "'600,1000'" {
		t.Errorf("oom_score_adj of the idle Python kernel and the running JavaScript kernel = %s, want '600,1000'", got)
	}
}
