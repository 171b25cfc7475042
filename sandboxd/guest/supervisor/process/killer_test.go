//go:build linux

package process

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// TestNearLimitCountsOnlyTheKernelsUser checks that processes of other users do not count. They are visible if
// the sandbox shares a process namespace.
func TestNearLimitCountsOnlyTheKernelsUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: needs root to start processes as another user")
	}
	const uid = 309_999
	const limit = 4
	k := NewKiller(User{uid: uid, gid: uid}, limit, nil)
	for owned, want := range []bool{false, false, true} {
		if got := k.NearLimit(); got != want {
			t.Errorf("NearLimit() = %t with %d processes of the kernels' user and a limit of %d, want %t", got, owned, limit, want)
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
