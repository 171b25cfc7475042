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

// TestGvisorReportsStoppedProcess checks a sandbox whose process was stopped with SIGSTOP, as a debugger or a
// freezer does. A waiting caller must get an answer within a minute, so that it comes before clients give up.
// After SIGCONT the sandbox must work as before.
func TestGvisorReportsStoppedProcess(t *testing.T) {
	enginetest.Slow(t)
	eng, ref := gvisorEngine(t)
	d := startDaemon(t, filepath.Join(t.TempDir(), "a.db"), eng, func(c *manager.Config) { c.DefaultImage = ref })
	defer func() { d.stop(t) }()
	sb := d.create(t, sandbox.CreateRequest{})
	defer func() { _ = d.Delete(context.WithoutCancel(t.Context()), string(sb.ID)) }()
	d.wantOutput(t, sb.ID, "x = 41; print(x)", "41")
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
		t.Fatal("no runsc process of the sandbox was found")
	}
	signal(syscall.SIGSTOP)
	defer signal(syscall.SIGCONT)
	limited, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := d.Execute(limited, string(sb.ID), sandbox.ExecuteRequest{Code: "x += 1", WaitSeconds: 45})
	wantError(t, "Execute", err, sandbox.Unavailable, "does not answer")
	signal(syscall.SIGCONT)
	waitUntil(t, "the sandbox answers after SIGCONT", func() bool {
		_, err := d.Execute(t.Context(), string(sb.ID), sandbox.ExecuteRequest{Code: "x", WaitSeconds: 10})
		return err == nil
	})
	if e := d.execute(t, sb.ID, "print(x in (41, 42))", 30); output(e) != "True\n" || e.KernelEpoch != 1 {
		t.Errorf("the output is %q in epoch %d, want True in epoch 1", output(e), e.KernelEpoch)
	}
}
