//go:build linux

package supervisor

import (
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// watchdog stops the kernel that fills the sandbox's memory before the limit stops the sandbox:
// under gVisor that limit takes everything with it, and under runc it takes whatever it likes.
type watchdog struct {
	sup   *Supervisor
	meter *memoryMeter
	kills atomic.Int64 // the OOM killer's counter when it was last looked at

	mu    sync.Mutex
	work  int // executions that run
	timer *time.Timer
}

const (
	watchIdle = 5 * time.Second
	watchBusy = 100 * time.Millisecond
	watchNear = 10 * time.Millisecond // from half of the limit on: a gigabyte takes a third of a second

	// Percent of the limit at which a kernel is stopped. What idles does not grow, as a rule,
	// and its variables are worth more.
	fullBusy = 95
	fullIdle = 99
	near     = 50
)

func newWatchdog(sup *Supervisor) *watchdog {
	w := &watchdog{sup: sup, meter: newMemoryMeter(sup.config.Memory)}
	w.kills.Store(w.meter.oomKills())
	return w
}

// watch begins to look, and never ends.
func (w *watchdog) watch() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(watchIdle, func() {
		used := w.check()
		w.mu.Lock()
		defer w.mu.Unlock()
		switch {
		case w.work == 0:
			w.timer.Reset(watchIdle)
		case used >= near:
			w.timer.Reset(watchNear)
		default:
			w.timer.Reset(watchBusy)
		}
	})
}

// busy counts executions that run. One that is over within a tick costs nothing but this.
func (w *watchdog) busy(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch w.work += n; {
	case n > 0 && w.work == 1:
		w.timer.Reset(watchBusy)
	case w.work == 0:
		w.timer.Reset(watchIdle)
	}
}

func (w *watchdog) working() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.work > 0
}

// check returns how many percent of the limit are used, after doing something about it.
func (w *watchdog) check() int {
	used, full := int(w.meter.used()*100/w.meter.limit), fullIdle
	if w.working() {
		full = fullBusy
	}
	if used < full {
		return used
	}
	k := w.culprit()
	if k == nil {
		return used // files fill the memory, and no kernel's end would help
	}
	// First of all the memory has to stop growing.
	k.signal(syscall.SIGKILL)
	why := fmt.Sprintf("the sandbox's memory limit of %s was reached", size(w.meter.limit))
	if files := mountsUsed(); files > w.meter.limit/10 {
		why += fmt.Sprintf("; files in /workspace, /tmp and /dev/shm use %s of it", size(files))
	}
	k.outOfMemory.CompareAndSwap(nil, &why)
	for _, p := range processes(-1) {
		if p.session == k.pid {
			_ = syscall.Kill(p.pid, syscall.SIGKILL)
		}
	}
	return 0
}

// culprit is the kernel to stop: the only one that runs something, or else the one whose session uses most.
// Looking at every process takes its time when there are hundreds, so it is the last resort.
func (w *watchdog) culprit() *kernel {
	var living, running []*kernel
	for _, l := range w.sup.lanes {
		k := l.live()
		if k == nil || k.dead() {
			continue
		}
		living = append(living, k)
		if k.busy() {
			running = append(running, k)
		}
	}
	if len(running) == 1 {
		return running[0]
	}
	bySession := map[int]int64{}
	if len(living) > 1 {
		for _, p := range processes(-1) {
			bySession[p.session] += p.rss
		}
	}
	var worst *kernel
	for _, k := range living {
		if worst == nil || bySession[k.pid] > bySession[worst.pid] {
			worst = k
		}
	}
	return worst
}

// oomKilled reports whether the kernel's OOM killer has ended something since the last call.
func (w *watchdog) oomKilled() bool {
	now := w.meter.oomKills()
	return w.kills.Swap(now) < now
}
