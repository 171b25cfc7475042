package sandbox

import "fmt"

// Limits contains the limits of one sandbox's resources. No field is zero in the record of a sandbox or in an
// engine.Spec.
type Limits struct {
	// MemoryBytes limits the memory of processes, /workspace, /tmp, /dev/shm and stored output together.
	MemoryBytes int64   `json:"memory_bytes"`
	CPUs        float64 `json:"cpus"`
	Processes   int     `json:"processes"`
	// WorkspaceBytes is the size of /workspace. The size of /tmp is half of it.
	WorkspaceBytes int64 `json:"workspace_bytes"`
}

// MiB is 2^20 bytes.
const MiB = 1 << 20

// FormatBytes formats a number of bytes for a message. It formats less than 1 GiB as whole MiB, rounded down, and other
// sizes as GiB, rounded to one decimal. An exact number of GiB gets no decimal.
func FormatBytes(n int64) string {
	switch {
	case n >= 1<<30 && n%(1<<30) == 0:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%d MiB", n>>20)
}

// DefaultLimits returns the limits of a sandbox whose create request sets none.
func DefaultLimits() Limits {
	return Limits{MemoryBytes: 2048 * MiB, CPUs: 2, Processes: 512, WorkspaceBytes: 1024 * MiB}
}

// DefaultMaxSandboxes is how many sandboxes of a daemon may run at once by default.
const DefaultMaxSandboxes = 100

// The smallest and largest values of a create request. On a host with fewer CPUs or less memory than the largest values,
// these are lower: see [Limits.WithRequest].
const (
	MinMemoryMB = 128
	MaxMemoryMB = 64 << 10
	MinCPUs     = 0.1
	MaxCPUs     = 64.0
)

// WithRequest returns the limits of a sandbox that r creates. l has the defaults for fields that r does not set.
// Defaults that exceed the host's CPUs or memory are lowered, and so is a WorkspaceBytes of more than half the memory.
// If r asks for CPUs or memory outside the valid range, or for more than the host has, the error is of kind invalid.
// hostMemory is in bytes, and 0 if it is not known.
func (l Limits) WithRequest(r CreateRequest, hostCPUs int, hostMemory int64) (Limits, error) {
	hostMaxMB := MaxMemoryMB
	if hostMemory > 0 {
		hostMaxMB = int(max(MinMemoryMB, min(MaxMemoryMB, hostMemory/MiB)))
	}
	if r.MemoryMB != 0 {
		if r.MemoryMB < MinMemoryMB || r.MemoryMB > hostMaxMB {
			return l, Errorf(Invalid, "memory_mb %d is out of range: use %d to %d on this machine", r.MemoryMB, MinMemoryMB, hostMaxMB)
		}
		l.MemoryBytes = int64(r.MemoryMB) * MiB
	}
	l.MemoryBytes = min(l.MemoryBytes, int64(hostMaxMB)*MiB)
	l.WorkspaceBytes = min(l.WorkspaceBytes, max(MiB, l.MemoryBytes/2))
	if r.CPUs != 0 {
		maximum := min(MaxCPUs, float64(hostCPUs))
		if !(r.CPUs >= MinCPUs && r.CPUs <= maximum) {
			return l, Errorf(Invalid, "cpus %g is out of range: use %g to %g on this machine", r.CPUs, MinCPUs, maximum)
		}
		l.CPUs = r.CPUs
	}
	l.CPUs = min(l.CPUs, float64(hostCPUs))
	return l, nil
}

// Limits of a single request or execution. They are the same on every transport.
const (
	MaxCodeBytes   = 1 * MiB   // size of the code of one execution
	MaxFileBytes   = 100 * MiB // size of one file that is written or read
	MaxFiles       = 100       // number of files in one request
	MaxOutputBytes = 16 * MiB  // text stored from the start of an execution's output; further text is only counted
	TailBytes      = 256 << 10 // text also stored from the end of an output that exceeds MaxOutputBytes
	MaxRichBytes   = 32 * MiB  // pictures and other rich values stored of one execution
	MaxValues      = 1000      // rich values stored of one execution; of further values, only the number and the last value are stored
	MaxErrors      = 100       // error events stored of one execution; one more event represents all further errors
)
