package engine

import "github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"

// Settings of a sandbox's isolation that are the same on every engine.
const (
	MaxOpenFiles = 4096
	ShmBytes     = 64 * sandbox.MiB
	// GuestPids is added to a sandbox's limit of processes, for the guest's own threads and for `guest connect`.
	GuestPids = 64
	// GVisorPids is added to the cgroup's limit of processes under gVisor, because the cgroup counts gVisor's
	// threads. The guest's rlimits bound the processes of code inside the sandbox; the cgroup's limit takes effect only
	// if the rlimits fail.
	GVisorPids = 8192
	// OOMScoreAdj is the oom_score_adj of the guest, and the lowest of a sandbox's processes. If the machine's memory is
	// used up, the machine's kernel kills these processes before the daemon and other programs.
	OOMScoreAdj = 500
)

// GVisorMemory returns the memory limit of a sandbox's cgroup under gVisor, in bytes. A sandbox that reaches this limit
// is killed as a whole, and gVisor's own memory counts too. The guest's watchdog enforces the true limit and must act
// first, so the cgroup's limit is far higher: a measured fork bomb of Python processes, each of 26 MB under gVisor,
// exceeded a limit of 1 GiB by 850 MiB before the watchdog had ended it.
func GVisorMemory(l sandbox.Limits) int64 { return 2*l.MemoryBytes + 256*sandbox.MiB }

// FileSize returns the rlimit of a file's size in bytes. This limit also applies to the guest's own files in RunDir.
func FileSize(l sandbox.Limits) int64 { return max(l.WorkspaceBytes, RunDirBytes) }
