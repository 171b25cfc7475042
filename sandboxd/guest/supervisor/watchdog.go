//go:build linux

package supervisor

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/supervisor/process"
)

// watchdog kills the kernel that fills the sandbox's memory before the container reaches its own limit: under gVisor,
// that limit ends the whole sandbox, and under runc, the OOM killer may choose any process.
type watchdog struct {
	sup       *Supervisor
	meter     *process.MemoryMeter       // its peak is reset when an execution begins while no other execution runs
	searching atomic.Bool                // a search of stopStrays is running
	strays    atomic.Int64               // processes that belonged to no kernel and that the watchdog killed; never decreases
	files     atomic.Int64               // number of files at the last count, which was made by moreFiles or at the start of an execution
	countedAt atomic.Int64               // when moreFiles last counted the files, in Unix nanoseconds
	maxFiles  int64                      // limit of the number of files; 0 if the file systems limit it
	lastKill  atomic.Pointer[memoryKill] // the last kill for memory; nil once memory use is below fullBusy or fullIdle again

	mu    sync.Mutex
	work  int // number of running executions
	timer *time.Timer
}

// memoryKill is the watchdog's last kill of a kernel for memory.
type memoryKill struct {
	kernel *kernel
	at     time.Time
	code   int // percent of the limit that was in use just after the kill, without gVisor's heap
}

// done reports whether no process of the killed group is left.
func (m *memoryKill) done() bool { return syscall.Kill(-m.kernel.pid, 0) == syscall.ESRCH }

const (
	// Time between two checks: while no execution runs (watchIdle), because processes that an execution left behind can
	// still use more memory, and while one runs (watchBusy). Code can fill a gigabyte in a third of a second. So the
	// checks are more frequent when memory use has reached the constant near (watchNear), and from when a kernel is
	// killed until its memory is free (watchFull).
	watchIdle = 500 * time.Millisecond
	watchBusy = 100 * time.Millisecond
	watchNear = 10 * time.Millisecond
	watchFull = time.Millisecond

	// Percent of the limit at which a kernel is killed, while an execution runs (fullBusy) and while none does
	// (fullIdle). An idle kernel usually does not use more memory, and its variables are worth more. near is the
	// percentage from which on memory is checked every watchNear while an execution runs.
	fullBusy = 95
	fullIdle = 99
	near     = 50
	// settle waits until less than settled percent are in use, but at most settleTime.
	settled    = 75
	settleTime = 3 * time.Second
	// All processes of the kernels' user are killed at runaway percent. They are also killed if memory grows by more
	// than growth percent of the limit after a kernel and its process group have ended, because then other processes
	// use more memory, for example a fork bomb that has left the kernel's session. gVisor's heap does not count for
	// runaway and growth, because its measured size is not up to date. The cgroup's limit, which ends a gVisor sandbox,
	// is twice the limit plus 256 MiB.
	runaway = 108
	growth  = 2

	// memoryPerFile is how many bytes of the sandbox's memory limit there must be for each file under gVisor, whose
	// file systems don't limit the number of files. A file takes 2 KB of gVisor's own memory, and 10 KB while a
	// checkpoint is made. The guest can see how much of that memory is in use only with the runsc that Dormouse builds,
	// but that memory always counts towards the cgroup's limit, which ends the sandbox. Under runc, the file systems
	// themselves have the same limit.
	memoryPerFile = 16 << 10
)

func newWatchdog(sup *Supervisor) *watchdog {
	w := &watchdog{sup: sup, meter: process.NewMemoryMeter(sup.config.Memory)}
	if process.OnGVisor() {
		w.maxFiles = sup.config.Memory / memoryPerFile
	}
	return w
}

// watch starts the regular checks. They continue until the guest ends.
func (w *watchdog) watch() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(watchIdle, func() {
		used := w.check()
		w.mu.Lock()
		defer w.mu.Unlock()
		switch {
		case used >= fullBusy && w.lastKill.Load() != nil:
			w.timer.Reset(watchFull)
		case used >= near && (w.work > 0 || used >= fullBusy):
			w.timer.Reset(watchNear)
		case w.work > 0:
			w.timer.Reset(watchBusy)
		default:
			w.timer.Reset(watchIdle)
		}
	})
}

// busy adds n to the number of running executions. An execution that is shorter than watchBusy causes no check.
func (w *watchdog) busy(n int) {
	if n > 0 && w.maxFiles > 0 {
		w.files.Store(process.KernelFiles()) // the execution is not responsible for files that exist already
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch w.work += n; {
	case n > 0 && w.work == 1:
		w.meter.ResetPeak()
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

// check measures how much memory is in use, and kills processes if memory or the number of files is too high. It returns
// the measured use, from before the kills, as a percentage of the memory limit.
func (w *watchdog) check() int {
	use := w.meter.Measure()
	used, code := w.meter.Percent(use.Total), w.meter.Percent(use.Total-use.Heap)
	full := fullIdle
	if w.working() {
		full = fullBusy
	}
	if used < full {
		w.lastKill.Store(nil)
		if w.moreFiles() {
			w.stopRunning(w.tooManyFiles)
		}
		return used
	}
	last, running := w.lastKill.Load(), w.running()
	settling := last != nil && time.Since(last.at) < settleTime // the memory of the killed kernel may not be free yet
	switch {
	case code >= runaway || last != nil && code > last.code+growth && last.done():
		for _, k := range w.living() {
			k.setOutOfMemory(w.usageNow())
		}
		_ = w.sup.user.KillAll() // if KillAll fails, the next check calls it again
	case len(running) == 1 && (!settling || running[0] == last.kernel):
		w.stop(running[0], w.usageNow())
	case !settling:
		w.stopStrays(func() { w.stop(w.largest(), w.usageNow()) })
	}
	return used
}

// settle waits until the memory of killed processes is free, which can take a moment. Otherwise the watchdog would
// attribute that memory to the next kernel.
func (w *watchdog) settle() {
	for end := time.Now().Add(settleTime); w.meter.Percent(w.meter.Used().Total) >= settled && time.Now().Before(end); {
		time.Sleep(watchNear)
	}
}

// stopStrays kills the processes that belong to no kernel, because losing them costs least. If it finds none, it calls
// the function that is passed as otherwise. The search runs in the background. stopStrays does nothing if an earlier
// search still runs.
func (w *watchdog) stopStrays(otherwise func()) {
	if !w.searching.CompareAndSwap(false, true) {
		return
	}
	go func() { // in the background, because the search is slow and the checks must continue
		defer w.searching.Store(false)
		// strays counts before each kill, so that an execution that ends because of the kill sees the count.
		if !w.sup.killer.KillStrays(func() { w.strays.Add(1) }) {
			otherwise()
		}
	}()
}

// stopRunning kills the kernels that have an execution. If no kernel has one, it kills the processes that belong to
// no kernel.
func (w *watchdog) stopRunning(why func() string) {
	running := w.running()
	for _, k := range running {
		w.stop(k, why)
	}
	if len(running) == 0 {
		w.stopStrays(func() {})
	}
}

// moreFiles reports whether there are more than maxFiles files, and more than at the last count, so that code that
// removes files can continue. It counts at most once in watchBusy, because memory may be checked every millisecond.
func (w *watchdog) moreFiles() bool {
	if w.maxFiles == 0 || time.Since(time.Unix(0, w.countedAt.Load())) < watchBusy {
		return false
	}
	w.countedAt.Store(time.Now().UnixNano())
	now := process.KernelFiles()
	return w.files.Swap(now) < now && now > w.maxFiles
}

// stop kills k and the processes in its process group. The lane kills the processes that have left the group when it
// cleans up after k. The parameter why is a function that returns the reason. It is called only after the kernel's
// death, because during a fork bomb each system call can take 10 ms, in which memory grows. stop does nothing if k is
// nil, which means that no kernel is alive and files fill the memory.
func (w *watchdog) stop(k *kernel, why func() string) {
	if k == nil {
		return
	}
	k.setOutOfMemory(why)
	k.signal(syscall.SIGKILL)
	if last := w.lastKill.Load(); last == nil || last.kernel != k {
		use := w.meter.Measure()
		w.lastKill.Store(&memoryKill{k, time.Now(), w.meter.Percent(use.Total - use.Heap)})
	}
}

// tooManyFiles returns a clause with the limit, the number of files and advice.
func (w *watchdog) tooManyFiles() string {
	return fmt.Sprintf("the sandbox can store %d files in /workspace, /tmp and /dev/shm, and there are %d: remove some", w.maxFiles, w.files.Load())
}

// largest returns the living kernel whose session uses the most memory, or nil if there is none.
func (w *watchdog) largest() (worst *kernel) {
	bySession := map[int]int64{}
	for _, p := range process.List(-1) {
		bySession[p.Session] += p.RSS
	}
	for _, k := range w.living() {
		if worst == nil || bySession[k.pid] > bySession[worst.pid] {
			worst = k
		}
	}
	return worst
}

// living returns the living kernels.
func (w *watchdog) living() (living []*kernel) {
	for _, l := range w.sup.lanes {
		if k := l.live(); k != nil && !k.dead() {
			living = append(living, k)
		}
	}
	return living
}

// running returns the living kernels that have an execution.
func (w *watchdog) running() []*kernel {
	return slices.DeleteFunc(w.living(), func(k *kernel) bool { return !k.busy() })
}

// killCount is the number of processes that were killed because memory ran out, since the sandbox started.
type killCount struct {
	oom    int64 // processes that the OOM killer killed
	strays int64 // processes that the watchdog killed and that belonged to no kernel
}

// kills returns the current counts. A caller compares the counts of two moments.
func (w *watchdog) kills() killCount {
	return killCount{oom: w.meter.OOMKills(), strays: w.strays.Load()}
}
