//go:build linux

package supervisor

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// lane runs the executions of one language, one after the other, in one kernel. It starts the kernel when it is
// needed, and a new one after a death. Lanes run concurrently.
type lane struct {
	lang sandbox.Language
	sup  *Supervisor
	wake chan struct{} // signals that the queue may not be empty
	// prepare asks serve to start the kernel. Each value is nil or a channel. If it is a channel, serve also calls
	// warm, and sends the result to that channel.
	prepare       chan chan<- error
	nextInterlude interlude // the report of the next execution about the time before it
	// kills holds the watchdog's counts from the start of the kernel, or from when an execution last began or ended.
	// Only serve's goroutine uses it.
	kills killCount

	mu        sync.Mutex
	queue     []*execution
	running   *execution
	kernel    *kernel // nil if no kernel was started since the last death
	starting  bool    // the kernel has been started and was not ready yet
	epoch     int     // epoch of the kernel that became ready last
	asOf      int64   // AsOfUnix of the last Restore that reported a loss
	lastDeath *sandbox.KernelDeath
}

const (
	maxQueued = 100
	// startTimeout bounds how long a kernel may take to become ready. It is long because many sandboxes may start at
	// once on a busy machine, and a machine may be emulated.
	startTimeout = 3 * time.Minute
	// minStartTimeout is how long a kernel may take to start for an execution with a shorter timeout. An execution
	// with a longer timeout waits as long as that timeout, but at most startTimeout. Code in the sandbox can stop a
	// kernel while it starts; if the limit were always startTimeout, each such start would take that long.
	minStartTimeout = 30 * time.Second
)

func newLane(lang sandbox.Language, sup *Supervisor) *lane {
	l := &lane{lang: lang, sup: sup, wake: make(chan struct{}, 1), prepare: make(chan chan<- error, 1)}
	go l.serve()
	return l
}

// add appends an execution to the queue. It returns a Busy error if the queue is full.
func (l *lane) add(e *execution) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) >= maxQueued {
		return sandbox.Errorf(sandbox.Busy, "%d executions are already waiting for the %s kernel: wait until one has ended, or interrupt some", maxQueued, l.lang)
	}
	l.queue = append(l.queue, e)
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return nil
}

// remove removes a queued execution, and reports whether it was in the queue.
func (l *lane) remove(e *execution) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, q := range l.queue {
		if q == e {
			l.queue = append(l.queue[:i], l.queue[i+1:]...)
			return true
		}
	}
	return false
}

func (l *lane) next() *execution {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		return nil
	}
	e := l.queue[0]
	l.queue = l.queue[1:]
	l.running = e
	return e
}

// serve runs the queued executions, prepares the kernel when asked to, and cleans up after a kernel that died while
// no execution ran. It never returns.
func (l *lane) serve() {
	for {
		var died <-chan struct{}
		if k := l.live(); k != nil {
			died = k.exited
		}
		select {
		case <-l.wake:
			for e := l.next(); e != nil; e = l.next() {
				l.run(e)
				l.mu.Lock()
				l.running = nil
				l.mu.Unlock()
			}
		case reply := <-l.prepare:
			k, death := l.ready(context.Background(), startTimeout) // if ready fails, the next execution calls it again and reports the cause
			if reply != nil {
				reply <- l.warm(k, death)
			}
		case <-died:
			l.handleIdleDeath(l.live())
		}
	}
}

// live returns the lane's kernel, or nil. A dead kernel is returned until the lane has cleaned up after it.
func (l *lane) live() *kernel {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.kernel
}

// run runs one execution and makes it final.
func (l *lane) run(e *execution) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-e.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	k, death := l.ready(ctx, min(max(e.timeout, minStartTimeout), startTimeout))
	switch {
	case ctx.Err() != nil:
		e.end(outcome{state: sandbox.ExecInterrupted, reason: neverRan})
		return
	case k == nil:
		e.end(outcome{state: sandbox.ExecKernelDied, reason: death.Detail, death: death})
		return
	}
	before := l.sup.workspace.Scan()
	k.drainRaw()
	since := l.nextInterlude.take()
	e.begin(l.currentEpoch(), since)
	l.sup.watchdog.busy(1)
	l.kills = l.sup.watchdog.kills()
	k.begin(e)
	o := l.follow(k, e)
	l.sup.explainMemory(e, &o, l.kills)
	l.kills = l.sup.watchdog.kills()
	l.sup.watchdog.busy(-1)
	o.files, o.filesOmitted = l.sup.workspace.Changes(before)
	o.interlude = l.nextInterlude.takeLate(since)
	e.end(o)
}

const neverRan = "it was interrupted while it was queued, so its code never ran"

// follow waits until the kernel's current execution ends. It stops the execution if an interrupt was requested or the
// timeout has passed.
func (l *lane) follow(k *kernel, e *execution) outcome {
	timeout := time.NewTimer(e.timeout)
	defer timeout.Stop()
	select {
	case status := <-k.done:
		return outcomeOfStatus(status)
	case <-k.exited:
		death := l.cleanUpAfter(k, sandbox.KernelDeath{})
		return outcome{state: sandbox.ExecKernelDied, reason: death.Detail, death: &death}
	case <-timeout.C:
		return l.stop(k, e, sandbox.ExecTimedOut, fmt.Sprintf("it reached its timeout of %s", e.timeout))
	case <-e.stop:
		return l.stop(k, e, sandbox.ExecInterrupted, "it was interrupted")
	}
}

// outcomeOfStatus returns the outcome of an execution that ended by itself. The code can forge the status, but a forged
// status only affects the reported result of that code.
func outcomeOfStatus(status string) outcome {
	switch status {
	case "ok":
		return outcome{state: sandbox.ExecSucceeded}
	case "interrupted": // without a request: the code raised KeyboardInterrupt or sent itself a signal
		return outcome{state: sandbox.ExecFailed, reason: "the code interrupted itself"}
	}
	return outcome{state: sandbox.ExecFailed}
}

// ready returns the kernel once it is ready for requests, and starts a kernel first if none lives. If the kernel does not
// start, or ends before it is ready, ready returns the cause. If the kernel is not ready within the duration maxWait,
// ready kills it and returns the cause. If ctx ends first, ready returns nil and nil, and the kernel continues to
// start.
func (l *lane) ready(ctx context.Context, maxWait time.Duration) (*kernel, *sandbox.KernelDeath) {
	k := l.live()
	if k != nil && k.dead() {
		l.handleIdleDeath(k)
		k = nil
	}
	if k == nil {
		var err error
		if k, err = l.start(); err != nil {
			death := sandbox.KernelDeath{Cause: sandbox.DiedStart, Detail: err.Error(), Time: time.Now().UTC()}
			l.setDeath(&death)
			return nil, &death
		}
	}
	timeout := time.NewTimer(maxWait)
	defer timeout.Stop()
	select {
	case <-k.ready:
	case <-ctx.Done():
		return nil, nil
	case <-k.exited:
		death := l.cleanUpAfter(k, sandbox.KernelDeath{Cause: sandbox.DiedStart})
		return nil, &death
	case <-timeout.C:
		l.sup.killer.Kill(k.pid, k.exited)
		death := l.cleanUpAfter(k, sandbox.KernelDeath{Cause: sandbox.DiedStart, Detail: fmt.Sprintf("the %s kernel was not ready after %s", l.lang, maxWait)})
		return nil, &death
	}
	l.mu.Lock()
	first := l.starting
	if first {
		l.starting = false
		l.epoch++
	}
	l.mu.Unlock()
	if first {
		k.oomScore.open(l.sup.user, k.pid)
	}
	return k, nil
}

// prepareForSnapshot waits until the kernel is ready for a snapshot.
func (l *lane) prepareForSnapshot(ctx context.Context) error {
	done := make(chan error, 1)
	select {
	case l.prepare <- done:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// warmMemory is the smallest memory limit with which warm makes a kernel import libraries. The code may not need the
// libraries, so a smaller sandbox does not spend memory on them.
const warmMemory = 1024 * sandbox.MiB

// warm makes a kernel import the libraries that most code imports, if the sandbox has enough memory. It also checks
// that the kernel can renew its random state: otherwise all sandboxes that start from the kernel's memory would have
// the same random state. The parameters k and death are the results of ready.
func (l *lane) warm(k *kernel, death *sandbox.KernelDeath) error {
	if k == nil {
		return sandbox.Errorf(sandbox.Unavailable, "the %s kernel did not start: %s", l.lang, death.Detail)
	}
	timeout := time.NewTimer(startTimeout)
	defer timeout.Stop()
	if l.sup.config.Memory >= warmMemory {
		k.request(map[string]string{"type": "warm"})
		select {
		case <-k.warm:
		case <-k.exited:
			return sandbox.Errorf(sandbox.Unavailable, "the %s kernel died while it imported libraries", l.lang)
		case <-timeout.C:
			return sandbox.Errorf(sandbox.Unavailable, "the %s kernel did not import libraries within %s", l.lang, startTimeout)
		}
	}
	select {
	case <-k.renewed: // discards the answer to an earlier renew request
	default:
	}
	k.renew()
	select {
	case complaint := <-k.renewed:
		if complaint != "" {
			return sandbox.Errorf(sandbox.Unavailable, "no sandbox can start from the memory of the %s kernel, because its random state can't be renewed: %s", l.lang, sandbox.Quote(complaint))
		}
		return nil
	case <-k.exited:
		return sandbox.Errorf(sandbox.Unavailable, "the %s kernel died while it renewed its random state", l.lang)
	case <-timeout.C:
		return sandbox.Errorf(sandbox.Unavailable, "the %s kernel did not renew its random state within %s", l.lang, startTimeout)
	}
}

func (l *lane) start() (*kernel, error) {
	argv, env, err := l.sup.command(l.lang)
	if err != nil {
		return nil, err
	}
	l.kills = l.sup.watchdog.kills()
	k, err := startKernel(l.sup.reaper, argv, env, &l.sup.dropped, &l.nextInterlude)
	if err != nil {
		return nil, fmt.Errorf("the %s kernel did not start: %w", l.lang, err)
	}
	l.mu.Lock()
	l.kernel, l.starting = k, true
	l.mu.Unlock()
	return k, nil
}

// cleanUpAfter cleans up after a dead kernel: it kills all processes that the kernel left behind, so that none of them
// runs beside the next kernel, and waits until their memory is free. It returns how the kernel died. The caller sets
// those fields of known that it has determined. The result contains them unless memory ran out.
func (l *lane) cleanUpAfter(k *kernel, known sandbox.KernelDeath) sandbox.KernelDeath {
	death := l.sup.causeOfDeath(k, known, l.lang, l.kills)
	l.mu.Lock()
	l.kernel, l.starting = nil, false
	l.lastDeath = &death
	l.mu.Unlock()
	l.sup.killer.KillLeftovers(k.pid)
	l.sup.watchdog.settle()
	return death
}

// handleIdleDeath cleans up after a kernel that died while no execution ran. If the kernel had been ready, its
// variables are lost, and the next execution reports the death.
func (l *lane) handleIdleDeath(k *kernel) {
	l.mu.Lock()
	hadVariables := !l.starting
	l.mu.Unlock()
	if death := l.cleanUpAfter(k, sandbox.KernelDeath{}); hadVariables {
		l.nextInterlude.died(death)
	}
}

// handleRestore handles a restore of the sandbox's memory, which the guest and its kernels can't notice by themselves.
// A repeated call renews the random state again, but a loss is reported once.
func (l *lane) handleRestore(restore guest.Restore) {
	l.mu.Lock()
	defer l.mu.Unlock()
	kernelAlive := l.kernel != nil && !l.kernel.dead()
	if kernelAlive && (restore.Forked || restore.AsOfUnix != 0) { // after a loss, the kernel would repeat the random values of the lost time
		l.kernel.renew()
	}
	if restore.AsOfUnix == 0 || restore.AsOfUnix == l.asOf && l.epoch > restore.EpochAbove {
		return
	}
	l.asOf = restore.AsOfUnix
	// Kernels in the lost time used the epochs up to EpochAbove, so the current kernel, or else the next one, gets a
	// higher epoch.
	l.epoch = max(l.epoch, restore.EpochAbove)
	if kernelAlive && !l.starting {
		l.epoch++
	}
	l.nextInterlude.restored(time.Unix(restore.AsOfUnix, 0).UTC())
}

func (l *lane) setDeath(d *sandbox.KernelDeath) {
	l.mu.Lock()
	l.lastDeath = d
	l.mu.Unlock()
}

func (l *lane) currentEpoch() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epoch
}

// describeKernel describes the kernel for a status. The function memory returns how many bytes the processes of a session use.
func (l *lane) describeKernel(memory func(session int) int64) sandbox.Kernel {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := sandbox.Kernel{Language: l.lang, State: sandbox.KernelStopped, Epoch: l.epoch, LastDeath: l.lastDeath}
	k := l.kernel
	if k == nil || k.dead() {
		return s
	}
	readyMsg := k.readyMessage()
	s.Version, s.Runner = readyMsg.Version, readyMsg.Runner
	s.MemoryBytes = memory(k.pid)
	switch {
	case readyMsg.Type == "":
		s.State = sandbox.KernelStarting
	case l.running != nil:
		s.State = sandbox.KernelBusy
	default:
		s.State = sandbox.KernelIdle
	}
	return s
}
