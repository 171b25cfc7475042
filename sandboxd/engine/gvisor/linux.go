//go:build linux

package gvisor

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/cgroup"
)

// lowerPriority gives the calling goroutine its own thread, with the lowest priority for CPU and disk. The thread ends
// with the goroutine.
func lowerPriority() {
	runtime.LockOSThread()
	tid := unix.Gettid()
	_ = unix.Setpriority(unix.PRIO_PROCESS, tid, 19) // if this fails, the goroutine keeps its normal priority
	const idleClass = 3 << 13
	_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, 1, uintptr(tid), idleClass)
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
