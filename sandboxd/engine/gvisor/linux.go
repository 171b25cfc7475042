//go:build linux

package gvisor

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/cgroup"
)

// detach makes a command run in its own session, and in a user namespace if the daemon is not root.
func detach(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if rootless() {
		asRoot(cmd.SysProcAttr)
	}
}

// startInCgroup makes a command start in a cgroup. The folder of the cgroup must stay open until the command has
// started. The caller must call detach first.
func startInCgroup(cmd *exec.Cmd, cgroup *os.File) {
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(cgroup.Fd())
}

// lowerPriority gives the calling goroutine its own thread, with the lowest priority for CPU and disk. The thread ends
// with the goroutine.
func lowerPriority() {
	runtime.LockOSThread()
	tid := unix.Gettid()
	_ = unix.Setpriority(unix.PRIO_PROCESS, tid, 19) // if this fails, the goroutine keeps its normal priority
	const idleClass = 3 << 13
	_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, 1, uintptr(tid), idleClass)
}

// raiseOOMScore raises the OOM score of a process and of the processes that it starts afterwards, so that the machine's
// kernel kills them before the daemon when the machine's memory is used up. It ignores errors: the score then stays.
func raiseOOMScore(pid int) {
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(engine.OOMScoreAdj)), 0)
}

// totalMemory returns the memory that sandboxes may use, in bytes: the machine's memory, or the limit of this process's
// cgroup if that is lower. It returns 0 if the machine's memory is unknown.
func totalMemory() int64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0
	}
	total := int64(info.Totalram) * int64(info.Unit)
	if limit := cgroup.MemoryLimit(os.DirFS("/")); limit > 0 {
		total = min(total, limit)
	}
	return total
}
