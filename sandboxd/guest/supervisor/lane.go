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

// lane runs one language's executions, one after the other, in one kernel that it starts when
// it is needed and again after it died. Lanes run side by side.
type lane struct {
	lang    sandbox.Language
	sup     *Supervisor
	wake    chan struct{}     // there may be something in the queue
	prepare chan chan<- error // start the kernel ahead of the first execution; who sends a channel wants it warm, and hears when it is
	between interlude
	kills   killCount // when the kernel was started, or its last execution began or ended; only serve's goroutine uses it

	mu        sync.Mutex
	queue     []*execution
	running   *execution
	kernel    *kernel // nil: none was started yet
	starting  bool
	epoch     int   // of the kernel that is or was ready last
	asOf      int64 // what came after that, in Unix seconds, was lost
	lastDeath *sandbox.KernelDeath
}

const (
	maxQueued = 100
	// startTimeout is how long a kernel may take until it reads requests. It is long because
	// many sandboxes may start at once on a busy machine, and a machine may be emulated.
	startTimeout = 3 * time.Minute
	// minStartTimeout is the least time that a kernel may take to start, for executions with a shorter timeout. Longer timeouts allow more,
	// up to startTimeout: code in the sandbox can stop a kernel while it starts, so the start must not take startTimeout each time.
	minStartTimeout = 30 * time.Second
)

func newLane(lang sandbox.Language, sup *Supervisor) *lane {
	l := &lane{lang: lang, sup: sup, wake: make(chan struct{}, 1), prepare: make(chan chan<- error, 1)}
	go l.serve()
	return l
}

// add puts an execution at the end of the queue.
func (l *lane) add(e *execution) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) >= maxQueued {
		return sandbox.Errorf(sandbox.Busy, "%d executions wait for the %s kernel already: wait for one or interrupt some", maxQueued, l.lang)
	}
	l.queue = append(l.queue, e)
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return nil
}

// remove takes a queued execution out, and reports whether it was there.
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

// serve is the lane's life.
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
		case asked := <-l.prepare:
			k, death := l.ready(context.Background(), startTimeout) // if it fails, the next execution reports why
			if asked != nil {
				asked <- l.warm(k, death)
			}
		case <-died:
			l.lose(l.live())
		}
	}
}

// live returns the kernel unless it was buried.
func (l *lane) live() *kernel {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.kernel
}

// run takes one execution to its end.
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
	before := l.sup.workspace.snapshot()
	k.drainRaw()
	since := l.between.take()
	e.begin(l.currentEpoch(), since)
	l.sup.watchdog.busy(1)
	l.kills = l.sup.watchdog.kills()
	k.begin(e)
	o := l.follow(k, e)
	l.sup.explainMemory(e, &o, l.kills)
	l.kills = l.sup.watchdog.kills()
	l.sup.watchdog.busy(-1)
	o.files, o.filesOmitted = l.sup.workspace.changes(before)
	o.interlude = l.between.takeLate(since)
	e.end(o)
}

const neverRan = "it was interrupted while it waited, and never ran"

// follow waits for the end of the kernel's current execution, and brings it about when it is
// asked to or the time is up.
func (l *lane) follow(k *kernel, e *execution) outcome {
	timeout := time.NewTimer(e.timeout)
	defer timeout.Stop()
	select {
	case status := <-k.done:
		return finished(status)
	case <-k.exited:
		death := l.bury(k, sandbox.KernelDeath{})
		return outcome{state: sandbox.ExecKernelDied, reason: death.Detail, death: &death}
	case <-timeout.C:
		return l.stop(k, e, sandbox.ExecTimedOut, fmt.Sprintf("it ran for its whole timeout of %s", e.timeout))
	case <-e.stop:
		return l.stop(k, e, sandbox.ExecInterrupted, "it was interrupted")
	}
}

// finished is the outcome of an execution that ended by itself. That it did is the kernel's
// word, which concerns nobody but the code itself.
func finished(status string) outcome {
	switch status {
	case "ok":
		return outcome{state: sandbox.ExecSucceeded}
	case "interrupted": // nobody asked: the code raised KeyboardInterrupt, or a signal to itself
		return outcome{state: sandbox.ExecFailed, reason: "the code interrupted itself"}
	}
	return outcome{state: sandbox.ExecFailed}
}

// ready returns a kernel that reads requests, starting one if there is none. Otherwise it
// says why there is none; or ctx ended, and the kernel goes on starting. It kills a kernel that is not ready after patience.
func (l *lane) ready(ctx context.Context, patience time.Duration) (*kernel, *sandbox.KernelDeath) {
	k := l.live()
	if k != nil && k.dead() {
		l.lose(k)
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
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case <-k.ready:
	case <-ctx.Done():
		return nil, nil
	case <-k.exited:
		death := l.bury(k, sandbox.KernelDeath{Cause: sandbox.DiedStart})
		return nil, &death
	case <-timeout.C:
		l.sup.kill(k)
		death := l.bury(k, sandbox.KernelDeath{Cause: sandbox.DiedStart, Detail: fmt.Sprintf("the %s kernel was not ready after %s", l.lang, patience)})
		return nil, &death
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.starting {
		l.starting = false
		l.epoch++
	}
	return k, nil
}

// prepareFor returns when the kernel is ready for a snapshot.
func (l *lane) prepareFor(ctx context.Context) error {
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

// warmMemory is how much a sandbox must have for its kernel to import ahead what it may not need.
const warmMemory = 1024 * sandbox.MiB

// warm makes a kernel import the libraries that most code imports, and checks that the kernel can renew its random state. If it can't,
// sandboxes that start from its memory would have the same random state.
func (l *lane) warm(k *kernel, death *sandbox.KernelDeath) error {
	if k == nil {
		return sandbox.Errorf(sandbox.Unavailable, "the %s kernel does not start: %s", l.lang, death.Detail)
	}
	timeout := time.NewTimer(startTimeout)
	defer timeout.Stop()
	if l.sup.config.Memory >= warmMemory {
		k.request(map[string]string{"type": "warm"})
		select {
		case <-k.warm:
		case <-k.exited:
			return sandbox.Errorf(sandbox.Unavailable, "the %s kernel died as it imported its libraries", l.lang)
		case <-timeout.C:
			return sandbox.Errorf(sandbox.Unavailable, "the %s kernel did not import its libraries within %s", l.lang, startTimeout)
		}
	}
	select {
	case <-k.renewed: // discards the answer to an earlier renew
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
		return sandbox.Errorf(sandbox.Unavailable, "the %s kernel died as it renewed its random state", l.lang)
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
	k, err := startKernel(l.sup.reaper, argv, env, &l.sup.dropped, &l.between)
	if err != nil {
		return nil, fmt.Errorf("the %s kernel did not start: %w", l.lang, err)
	}
	l.mu.Lock()
	l.kernel, l.starting = k, true
	l.mu.Unlock()
	return k, nil
}

// bury cleans up after a dead kernel: nothing of it may live on beside the next one. It returns
// how the kernel died; what known says of that stands.
func (l *lane) bury(k *kernel, known sandbox.KernelDeath) sandbox.KernelDeath {
	death := l.sup.causeOfDeath(k, known, l.lang, l.kills)
	l.mu.Lock()
	l.kernel, l.starting = nil, false
	l.lastDeath = &death
	l.mu.Unlock()
	l.sup.sweep(k)
	l.sup.watchdog.settle()
	return death
}

// lose is bury for a kernel that died while nothing ran: the next execution says so.
func (l *lane) lose(k *kernel) {
	l.mu.Lock()
	hadVariables := !l.starting
	l.mu.Unlock()
	if death := l.bury(k, sandbox.KernelDeath{}); hadVariables {
		l.between.died(death)
	}
}

// awaken takes in what no kernel can notice: that its memory was saved, and is restored. What it is told twice counts
// once.
func (l *lane) awaken(a guest.Awakening) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lives := l.kernel != nil && !l.kernel.dead()
	if lives && (a.Copy || a.AsOfUnix != 0) { // after a loss, the next random values were used in the lost time already
		l.kernel.renew()
	}
	if a.AsOfUnix == 0 || a.AsOfUnix == l.asOf && l.epoch > a.EpochAbove {
		return
	}
	l.asOf = a.AsOfUnix
	// Kernels that came after this memory was saved have had the epochs up to EpochAbove.
	l.epoch = max(l.epoch, a.EpochAbove)
	if lives && !l.starting {
		l.epoch++
	}
	l.between.restored(time.Unix(a.AsOfUnix, 0).UTC())
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

// look describes the kernel for a status.
func (l *lane) look(memory func(session int) int64) sandbox.Kernel {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := sandbox.Kernel{Language: l.lang, State: sandbox.KernelStopped, Epoch: l.epoch, LastDeath: l.lastDeath}
	k := l.kernel
	if k == nil || k.dead() {
		return s
	}
	hello := k.introduction()
	s.Version, s.Runner = hello.Version, hello.Runner
	s.MemoryBytes = memory(k.pid)
	switch {
	case hello.Type == "":
		s.State = sandbox.KernelStarting
	case l.running != nil:
		s.State = sandbox.KernelBusy
	default:
		s.State = sandbox.KernelIdle
	}
	return s
}
