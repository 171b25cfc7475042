package sandbox

// Limits is what one sandbox may use. The zero value of a field means the default
// where a request is read, and never stands in a created sandbox.
type Limits struct {
	// MemoryBytes bounds everything: processes, /workspace, /tmp, /dev/shm and kept output.
	MemoryBytes int64   `json:"memory_bytes"`
	CPUs        float64 `json:"cpus"`
	Processes   int     `json:"processes"`
	// WorkspaceBytes is the size of /workspace; /tmp has half of it.
	WorkspaceBytes int64 `json:"workspace_bytes"`
}

// MiB is 2^20 bytes.
const MiB = 1 << 20

// DefaultLimits are a sandbox's limits when nobody says otherwise.
func DefaultLimits() Limits {
	return Limits{MemoryBytes: 2048 * MiB, CPUs: 2, Processes: 512, WorkspaceBytes: 1024 * MiB}
}

// Bounds of what may be asked for.
const (
	MinMemoryMB = 128
	MaxMemoryMB = 64 << 10
	MinCPUs     = 0.1
	MaxCPUs     = 64.0
)

// WithRequest returns the limits that a create request asks for on top of these
// defaults. Asking for more CPUs or memory than the host has is refused. A hostMemory of 0 bytes means that it is not known.
func (l Limits) WithRequest(r CreateRequest, hostCPUs int, hostMemory int64) (Limits, error) {
	mostMB := MaxMemoryMB
	if hostMemory > 0 {
		mostMB = int(max(MinMemoryMB, min(MaxMemoryMB, hostMemory/MiB)))
	}
	if r.MemoryMB != 0 {
		if r.MemoryMB < MinMemoryMB || r.MemoryMB > mostMB {
			return l, Errorf(Invalid, "memory_mb %d is out of range: use %d to %d on this machine", r.MemoryMB, MinMemoryMB, mostMB)
		}
		l.MemoryBytes = int64(r.MemoryMB) * MiB
	}
	l.MemoryBytes = min(l.MemoryBytes, int64(mostMB)*MiB)
	l.WorkspaceBytes = min(l.WorkspaceBytes, max(MiB, l.MemoryBytes/2))
	if r.CPUs != 0 {
		most := min(MaxCPUs, float64(hostCPUs))
		if !(r.CPUs >= MinCPUs && r.CPUs <= most) {
			return l, Errorf(Invalid, "cpus %g is out of range: use %g to %g on this machine", r.CPUs, MinCPUs, most)
		}
		l.CPUs = r.CPUs
	}
	l.CPUs = min(l.CPUs, float64(hostCPUs))
	return l, nil
}

// Limits of single requests, the same on every transport.
const (
	MaxCodeBytes   = 1 * MiB   // of one execution's code
	MaxFileBytes   = 100 * MiB // of one file in or out
	MaxFiles       = 100       // in one request
	MaxOutputBytes = 16 * MiB  // of text kept of one execution; the rest is counted, and its last part kept
	TailBytes      = 256 << 10 // of text kept of what came after MaxOutputBytes
	MaxRichBytes   = 32 * MiB  // of pictures and other rich values kept of one execution
	MaxValues      = 1000      // pictures and other rich values kept of one execution; further ones are counted, and the last one kept
	MaxErrors      = 100       // errors kept of one execution; one more error event stands for all further ones
)
