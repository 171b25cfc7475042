//go:build linux

package supervisor

import (
	"fmt"
	"os"
	"sync"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/supervisor/process"
)

// Values of oom_score_adj, a number from -1000 to 1000: the OOM killer of Linux kills the process with the highest sum of
// its own memory, in thousandths of the limit, and this number. The guest has 500 (engine.OOMScoreAdj). A kernel has
// busyScore while it starts (`guest launch` sets it) and while it has an execution. Its subprocesses inherit busyScore.
const (
	busyScore = "1000"
	idleScore = "600"
)

// oomScore is the oom_score_adj of a kernel. The watchdog usually acts before the OOM killer. On a busy machine it can be
// too late, and the OOM killer must not choose an idle kernel only because it is the largest process: the memory may be
// in use by many small processes, or by the buffers of their sockets. The zero value does nothing.
type oomScore struct {
	mu   sync.Mutex
	file *os.File
}

// open opens the file of a kernel that is ready, and makes the kernel idle. It does nothing under gVisor, which has no
// OOM killer. If the file can't be opened, because the kernel has ended or hides its files, the score doesn't change any
// more.
func (o *oomScore) open(user process.User, pid int) {
	if process.OnGVisor() {
		return
	}
	var file *os.File
	_ = user.RunAs(func() (err error) { // the file belongs to the kernels' user
		file, err = os.OpenFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), os.O_WRONLY, 0)
		return err
	})
	o.mu.Lock()
	o.file = file
	o.mu.Unlock()
	o.set(idleScore)
}

func (o *oomScore) set(score string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.file != nil {
		_, _ = o.file.WriteString(score) // fails if the kernel has ended
	}
}

func (o *oomScore) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.file != nil {
		o.file.Close()
		o.file = nil
	}
}
