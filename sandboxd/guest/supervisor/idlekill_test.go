//go:build linux

package supervisor_test

import (
	"strconv"
	"testing"
	"time"

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
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		s, err := b.Status(t.Context())
		if err == nil && s.Usage.Processes == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("after a minute there are %d processes, want the kernel alone (%v)", s.Usage.Processes, err)
		}
	}
	e := b.python("hoarder.wait()")
	if got := result(e); e.State != sandbox.ExecSucceeded || got != "-9" {
		t.Fatalf("state = %s (%s), hoarder.wait() = %q, want succeeded and -9", e.State, e.Reason, got)
	}
	if e.Reason != "" {
		t.Errorf("reason = %q, want none", e.Reason)
	}
}
