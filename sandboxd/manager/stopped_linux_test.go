package manager_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/enginetest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestGvisorStopped checks a sandbox whose process was stopped with SIGSTOP, as a debugger or a freezer does. A
// waiting caller must get an answer within a minute, so that it comes before clients give up. After SIGCONT the
// sandbox must work as before.
func TestGvisorStopped(t *testing.T) {
	enginetest.Slow(t)
	eng, ref := gvisorEngine(t)
	d := start(t, filepath.Join(t.TempDir(), "a.db"), eng, func(c *manager.Config) { c.DefaultImage = ref })
	defer func() { d.stop(t) }()
	sb := d.create(t, sandbox.CreateRequest{})
	defer func() { _ = d.Delete(context.WithoutCancel(t.Context()), string(sb.ID)) }()
	d.prints(t, sb.ID, "x = 41; print(x)", "41")
	signal := func(sig syscall.Signal) {
		t.Helper()
		commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, path := range commands {
			if line, err := os.ReadFile(path); err == nil && strings.HasPrefix(string(line), "runsc-sandbox") && strings.Contains(string(line), string(sb.ID)) {
				pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
				if err := syscall.Kill(pid, sig); err != nil {
					t.Fatal(err)
				}
				return
			}
		}
		t.Fatal("the sandbox has no process")
	}
	signal(syscall.SIGSTOP)
	defer signal(syscall.SIGCONT)
	patient, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := d.Execute(patient, string(sb.ID), sandbox.ExecuteRequest{Code: "x += 1", WaitSeconds: 45})
	wantError(t, "Execute", err, sandbox.Unavailable, "does not answer")
	signal(syscall.SIGCONT)
	within(t, time.Minute, "it answers again", func() bool {
		_, err := d.Execute(t.Context(), string(sb.ID), sandbox.ExecuteRequest{Code: "x", WaitSeconds: 10})
		return err == nil
	})
	if e := d.run(t, sb.ID, "print(x in (41, 42))", 30); output(e) != "True\n" || e.KernelEpoch != 1 {
		t.Errorf("x: %q in epoch %d, want what it was in 1", output(e), e.KernelEpoch)
	}
}
