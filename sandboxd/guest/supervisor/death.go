//go:build linux

package supervisor

import (
	"fmt"
	"syscall"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// causeOfDeath returns how a kernel died. It uses the status of wait4, the watchdog's record and the OOM killer's
// counter; it uses the kernel's own output only to recognize an abort for lack of memory. Memory is also the cause if
// SIGKILL ended a kernel that the guest was not stopping, and the OOM killer has killed a process since the counts in
// before were taken. The cause and the detail in known are kept unless memory is the cause.
func (s *Supervisor) causeOfDeath(k *kernel, known sandbox.KernelDeath, lang sandbox.Language, before killCount) sandbox.KernelDeath {
	d := known
	d.Time = time.Now().UTC()
	status := k.waitStatus()
	oom := s.watchdog.kills().oom > before.oom
	switch why := k.outOfMemory.Load(); {
	case why != nil:
		d.Cause, d.Detail = sandbox.DiedOutOfMemory, (*why)()
	case status.Signaled() && status.Signal() == syscall.SIGKILL && oom && d.Cause != sandbox.DiedStopped:
		d.Cause = sandbox.DiedOutOfMemory
		d.Detail = s.watchdog.usage()
	case lang == sandbox.JavaScript && status.Signaled() && status.Signal() == syscall.SIGABRT && k.heapFull.Load():
		// The kernel's output is only used to distinguish this abort from others.
		d.Cause = sandbox.DiedOutOfMemory
		d.Detail = fmt.Sprintf("Node's heap was full at its limit of %d MiB; ", heapMiB(s.config.Memory)) + s.watchdog.usage()
	case status.Signaled() && status.Signal() == syscall.SIGABRT && k.refused.Load():
		d.Cause, d.Detail = sandbox.DiedOutOfMemory, s.watchdog.usage()
	}
	if status.Signaled() {
		d.Signal = signalName(status.Signal())
	} else {
		d.ExitCode = status.ExitStatus()
	}
	how := fmt.Sprintf("exited with code %d", d.ExitCode)
	if d.Signal != "" {
		how = "was ended by " + d.Signal
	}
	switch {
	case d.Cause == sandbox.DiedStart && d.Detail == "":
		d.Detail = fmt.Sprintf("the %s kernel %s before it was ready", lang, how)
	case d.Cause == "" && d.Signal != "":
		d.Cause = sandbox.DiedSignal
	case d.Cause == "":
		d.Cause = sandbox.DiedExit
	}
	if d.Detail == "" {
		d.Detail = fmt.Sprintf("the %s kernel %s", lang, how)
	}
	return d
}

var signalNames = map[syscall.Signal]string{
	syscall.SIGABRT: "SIGABRT", syscall.SIGALRM: "SIGALRM", syscall.SIGBUS: "SIGBUS",
	syscall.SIGFPE: "SIGFPE", syscall.SIGHUP: "SIGHUP", syscall.SIGILL: "SIGILL",
	syscall.SIGINT: "SIGINT", syscall.SIGKILL: "SIGKILL", syscall.SIGPIPE: "SIGPIPE",
	syscall.SIGQUIT: "SIGQUIT", syscall.SIGSEGV: "SIGSEGV", syscall.SIGSYS: "SIGSYS",
	syscall.SIGTERM: "SIGTERM", syscall.SIGTRAP: "SIGTRAP", syscall.SIGUSR1: "SIGUSR1",
	syscall.SIGUSR2: "SIGUSR2", syscall.SIGXCPU: "SIGXCPU", syscall.SIGXFSZ: "SIGXFSZ",
	syscall.SIGIO: "SIGIO", syscall.SIGPROF: "SIGPROF", syscall.SIGVTALRM: "SIGVTALRM",
}

func signalName(s syscall.Signal) string {
	if name := signalNames[s]; name != "" {
		return name
	}
	return fmt.Sprintf("SIG%d", int(s))
}
