//go:build linux

package supervisor

import (
	"fmt"
	"syscall"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// stopSignal is a signal, and how long the guest waits for the code to end after it has sent the signal.
type stopSignal struct {
	signal syscall.Signal
	name   string
	wait   time.Duration
}

// stopSignals lists the signals that stop an execution. SIGINT keeps the variables. SIGINT is sent several times,
// because the code may be in a place where one SIGINT has no effect. Code that does not react is terminated.
var stopSignals = []stopSignal{
	{syscall.SIGINT, "SIGINT", time.Second},
	{syscall.SIGINT, "SIGINT", time.Second},
	{syscall.SIGINT, "SIGINT", time.Second},
	{syscall.SIGINT, "SIGINT", time.Second},
	{syscall.SIGINT, "SIGINT", time.Second},
	{syscall.SIGTERM, "SIGTERM", 2 * time.Second},
	{syscall.SIGKILL, "SIGKILL", 0}, // SIGKILL needs no wait, because Killer.Kill returns when the kernel is dead
}

// stop sends the stopSignals in order until the execution or its kernel has ended, and returns an outcome with the
// given state and reason. If the code is a fork bomb that does not react to the first signal, stop kills it without the
// other signals, because a fork bomb uses so much CPU time that they would take long.
func (l *lane) stop(k *kernel, e *execution, state sandbox.ExecutionState, why string) outcome {
	for i, r := range stopSignals {
		if i > 0 && l.sup.killer.NearLimit() {
			r = stopSignals[len(stopSignals)-1]
		}
		var over <-chan time.Time
		if r.wait > 0 {
			timer := time.NewTimer(r.wait)
			defer timer.Stop()
			over = timer.C
		}
		if r.signal == syscall.SIGKILL {
			l.sup.killer.Kill(k.pid, k.exited)
		} else {
			k.signal(r.signal)
		}
		select {
		case status := <-k.done:
			return l.finishStopped(k, e, r, outcome{state: state, reason: why, stoppedBy: r.name}, status)
		case <-k.exited:
			death := l.cleanUpAfter(k, sandbox.KernelDeath{
				Cause:  sandbox.DiedStopped,
				Detail: "the code did not end after other signals, so the kernel was killed; its variables are lost",
			})
			return outcome{state: state, reason: why, stoppedBy: r.name, death: &death}
		case <-over:
		}
	}
	panic("the last of stopSignals is not SIGKILL, which ends every kernel")
}

// finishStopped returns the outcome of an execution that reported its end after a signal. Whether the code reacted to
// the signal or was about to end anyway can't be distinguished; both count as stopped. finishStopped kills the
// processes that the execution started, or the kernel if it can't kill all of them.
func (l *lane) finishStopped(k *kernel, e *execution, r stopSignal, o outcome, status string) outcome {
	if status == "ok" {
		o.reason += "; the code handled the signal and finished"
	}
	killed, all := l.sup.killer.KillStartedSince(k.pid, e.beganTick)
	if killed > 0 {
		o.reason += fmt.Sprintf("; %d processes that it had started were killed", killed)
	}
	if !all {
		l.sup.killer.Kill(k.pid, k.exited)
		death := l.cleanUpAfter(k, sandbox.KernelDeath{
			Cause:  sandbox.DiedStopped,
			Detail: "the code started processes faster than they could be killed, so the kernel was killed; its variables are lost",
		})
		o.stoppedBy, o.death = "SIGKILL", &death
	}
	return o
}
