package engine

import "github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"

// What is the same on every engine of what isolates a sandbox.
const (
	MaxOpenFiles = 4096
	ShmBytes     = 64 * sandbox.MiB
	// GuestPids is the room for the guest's own threads and for `guest connect`.
	GuestPids = 64
	// GVisorPids is the room for gVisor's threads, which its cgroup counts. What code
	// may start is bounded inside, by the guest's rlimits: this is the last line.
	GVisorPids = 8192
	// OOMScoreAdj is the oom_score_adj of a sandbox's processes. With it the machine's kernel kills them before the daemon and other
	// programs when the machine's memory is used up.
	OOMScoreAdj = 500
)

// GVisorMemory is the cgroup's limit of a sandbox under gVisor. Reaching it kills the whole
// sandbox, and gVisor's own memory counts too. So the guest's watchdog, which is given the
// true limit, must act first, and this stands far above: a fork bomb of Python processes, 26 MB
// each under gVisor, was seen 850 MiB over a limit of 1 GiB before the watchdog had ended it.
func GVisorMemory(l sandbox.Limits) int64 { return 2*l.MemoryBytes + 256*sandbox.MiB }

// FileSize is the rlimit of a file's size: the guest's own files, in RunDir, count as well.
func FileSize(l sandbox.Limits) int64 { return max(l.WorkspaceBytes, RunDirBytes) }
