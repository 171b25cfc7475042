//go:build linux

package e2e_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestMoreMemoryThanTheMachineHasIsRefused(t *testing.T) {
	t.Parallel()
	needsEngine(t)
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	kib, err := strconv.Atoi(strings.Fields(string(text))[1])
	if err != nil {
		t.Fatal(err)
	}
	if kib >= 64<<20 {
		t.Skip("this machine has more memory than any sandbox may have")
	}
	c := newHome(t).connect(t)
	c.refused("create_sandbox", args{"memory_mb": 65_536}, "memory_mb 65536 is out of range", "on this machine")
}

func TestSandboxProcessesAreEndedBeforeTheDaemonForMemory(t *testing.T) {
	t.Parallel()
	if os.Getenv("DORMOUSE_ENGINE") != "gvisor" && !required("gvisor") {
		t.Skip("the processes of a Docker engine are not this user's; their profile has a golden file")
	}
	h := newHome(t, "DORMOUSE_ENGINE=gvisor")
	c := h.connect(t)
	c.run(c.create(nil), "1 + 1", "2")
	score := func(pid string) int {
		text, err := os.ReadFile(filepath.Join("/proc", pid, "oom_score_adj"))
		if err != nil {
			return -1 // the process has ended
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	daemon := score(strconv.Itoa(h.pid()))
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, path := range lines {
		text, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(text, []byte(h.dir)) || !bytes.Contains(text, []byte("\x00boot\x00")) && !bytes.Contains(text, []byte("\x00gofer\x00")) {
			continue
		}
		pid := filepath.Base(filepath.Dir(path))
		if got := score(pid); got >= 0 {
			found++
			if got <= daemon {
				t.Errorf("process %s has oom_score_adj %d, want more than the daemon's %d: %q", pid, got, daemon, text)
			}
		}
	}
	if found == 0 {
		t.Error("no process of the sandbox was found")
	}
}
