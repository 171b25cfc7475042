//go:build linux

package supervisor

import (
	"fmt"
	"os"
	"sync"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/supervisor/process"
)

// Values of oom_score_adj. The OOM killer of Linux adds this number to the memory of each process, in thousandths of the
// memory limit, and kills the process with the highest sum. So an idle kernel is spared unless it uses 40 % of the limit
// more than each process with busyScore. The guest has 500 (engine.OOMScoreAdj); idleScore is higher, so that an idle
// kernel is killed before a guest of the same size. A kernel has busyScore while it starts (`guest launch` sets it) and
// while it has an execution. A subprocess inherits the score that its kernel has when it starts the subprocess.
const (
	busyScore = "1000"
	idleScore = "600"
)

// oomScore sets the oom_score_adj of a kernel. Usually the watchdog acts before the OOM killer, but on a busy machine it
// can be too late. Without oomScore, the OOM killer would choose the largest process, often an idle kernel, although
// many small processes or the buffers of their sockets fill the memory. Hostile code can change the score of every
// kernel, because all kernels have the same user. The zero value does nothing.
type oomScore struct {
	mu     sync.Mutex
	file   *os.File // nil until the kernel is ready, and after the kernel has ended
	closed bool
}

// open opens the file of a ready kernel and sets idleScore. Under gVisor, which has no OOM killer, it does nothing. If
// the file can't be opened, because the kernel has ended or is not dumpable, the kernel keeps busyScore.
func (o *oomScore) open(user process.User, pid int) {
	if process.OnGVisor() {
		return
	}
	var file *os.File
	err := user.RunAs(func() (err error) { // only the file's owner, the kernels' user, may write to it
		file, err = os.OpenFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), os.O_WRONLY, 0)
		return err
	})
	if file == nil {
		return
	}
	o.mu.Lock()
	if err != nil || o.closed { // the kernel may have ended in the meantime
		file.Close()
	} else {
		o.file = file
	}
	o.mu.Unlock()
	o.set(idleScore)
}

func (o *oomScore) set(score string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.file != nil {
		_, _ = o.file.WriteString(score) // fails if the kernel has ended, or if the sandbox's processes must have a higher score
	}
}

func (o *oomScore) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	if o.file != nil {
		o.file.Close()
		o.file = nil
	}
}
