package hostproc

import (
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"
)

// TestReusedPidIsRejected checks that CheckLives returns an error if the process has ended, even if another process
// has the same pid now.
func TestReusedPidIsRejected(t *testing.T) {
	start := func() *exec.Cmd {
		cmd := exec.Command("/bin/sleep", "600")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	first := start()
	p, err := Open(first.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.CheckLives(); err != nil {
		t.Errorf("CheckLives() = %v for a running process, want nil", err)
	}
	_ = first.Process.Kill()
	_ = first.Wait()
	if err := p.CheckLives(); err == nil {
		t.Error("CheckLives() = nil for a process that has ended, want an error")
	}
	// Start another process with the same pid, if the machine's kernel lets the test choose pids.
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(p.pid-1)), 0); err != nil {
			t.Logf("the next pid can't be chosen here: %v", err)
			break
		}
		second := start()
		lives := p.CheckLives()
		_ = second.Process.Kill()
		_ = second.Wait()
		if second.Process.Pid == p.pid {
			if lives == nil {
				t.Error("CheckLives() = nil for the pid of another process, want an error")
			}
			break
		}
	}
	// A different start time alone is enough for an error.
	self, err := Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	self.started += "0"
	if err := self.CheckLives(); err == nil {
		t.Error("CheckLives() = nil for a process with another start time, want an error")
	}
}
