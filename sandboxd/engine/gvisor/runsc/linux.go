//go:build linux

package runsc

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
)

// detach makes a command run in its own session, and in a user namespace if the daemon is not root.
func detach(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if Rootless() {
		asRoot(cmd.SysProcAttr)
	}
}

// startInCgroup makes a command start in a cgroup. The folder of the cgroup must stay open until the command has
// started. The caller must call detach first.
func startInCgroup(cmd *exec.Cmd, cgroup *os.File) {
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(cgroup.Fd())
}

// RaiseOOMScore raises the OOM score of a process and of the processes that it starts afterwards, so that the machine's
// kernel kills them before the daemon when the machine's memory is used up. If the score can't be set, RaiseOOMScore does
// nothing.
func RaiseOOMScore(pid int) {
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(engine.OOMScoreAdj)), 0)
}
