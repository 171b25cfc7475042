//go:build linux

package supervisor

import (
	"fmt"
	"regexp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/supervisor/process"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// memoryAdvice is the end of every message about a lack of memory.
const memoryAdvice = "use less at once, or create a sandbox with a larger memory_mb"

var (
	// memoryText matches the name or message of an exception that is raised when an allocation fails.
	memoryText = regexp.MustCompile(`MemoryError|bad_alloc|ENOMEM|\[Errno 12\]|(?i:cannot allocate memory|out of ?memory|unable to allocate|allocation failed|memory allocation|memory usage)`)
	// threadText matches the message of an exception that is raised when a thread can't be started.
	threadText = regexp.MustCompile(`(?i)can't (start|create) (a )?(new )?thread|thread.*resource temporarily unavailable|failed to (spawn|create) thread`)
	// refusedText matches what C++ and Rust print to stderr before they abort because an allocation failed.
	refusedText = regexp.MustCompile(`std::bad_alloc|memory allocation of \d+ bytes failed`)
)

// explainMemory adds a reason to the outcome of an execution if a lack of memory made the execution fail, or if a
// process was killed for lack of memory during the execution. The parameter before holds the kill counts from the start
// of the execution. A kill can't be attributed to one execution: if executions of both lanes ran during the kill, both
// report it. If the kernel has died, explainMemory adds nothing, because the death has its own reason.
func (s *Supervisor) explainMemory(e *execution, o *outcome, before killCount) {
	if o.death != nil {
		return
	}
	err, now := e.codeError(), s.watchdog.kills()
	why := ""
	switch {
	case now.oom > before.oom || now.strays > before.strays:
		why = "a process in the sandbox was killed because memory ran out: " + s.watchdog.usage()
	case o.state != sandbox.ExecFailed || err == nil:
	case threadText.MatchString(err.Message) && s.threads() >= s.config.Processes*9/10:
		why = fmt.Sprintf("the sandbox's limit of %d processes and threads was reached; use fewer at once", s.config.Processes)
	case memoryText.MatchString(err.Name), memoryText.MatchString(err.Message), threadText.MatchString(err.Message):
		why = "memory was refused: " + s.watchdog.usage()
	}
	if why != "" && o.reason != "" {
		why = o.reason + "; " + why
	}
	if why != "" {
		o.reason = why
	}
}

// threads counts the threads of the kernels' user.
func (s *Supervisor) threads() (n int) {
	for _, p := range process.List(s.config.UID) {
		n += p.Threads
	}
	return n
}

// usage returns a clause with the memory used, the limit and advice.
func (w *watchdog) usage() string { return w.usageNow()() }

// usageNow returns a function that returns the same clause as usage. It reads the peak at once, and leaves the system
// calls to the returned function. So the clause contains at least this peak, even if another execution resets the peak
// before the function is called.
func (w *watchdog) usageNow() func() string {
	peak := w.meter.Peak()
	return func() string { return w.usageFrom(peak) }
}

func (w *watchdog) usageFrom(peak int64) string {
	w.meter.Measure()
	why := fmt.Sprintf("the sandbox used up to %s of its memory limit of %s", sandbox.FormatBytes(max(peak, w.meter.Peak())), sandbox.FormatBytes(w.meter.Limit()))
	if files := process.MountsUsed(); files > w.meter.Limit()/10 {
		why += fmt.Sprintf(", %s of it for files in /workspace, /tmp and /dev/shm", sandbox.FormatBytes(files))
	}
	return why + "; " + memoryAdvice
}
