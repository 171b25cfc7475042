//go:build linux

package supervisor

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// TestNearProcessLimitCountsOnlyTheKernelsUser checks that processes of other users do not count. They are visible if
// the sandbox shares a process namespace.
func TestNearProcessLimitCountsOnlyTheKernelsUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: needs root to start processes as another user")
	}
	const uid = 309_999
	s := &Supervisor{config: Config{UID: uid, Processes: 4}}
	for owned, want := range []bool{false, false, true} {
		if got := s.nearProcessLimit(); got != want {
			t.Errorf("crowded() = %t with %d processes of the kernels' user and a limit of %d, want %t", got, owned, s.config.Processes, want)
		}
		cmd := exec.Command("sleep", "600")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}, Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Wait()
		defer cmd.Process.Kill()
	}
}
