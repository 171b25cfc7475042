//go:build linux

package process

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// MemoryMeter measures the memory that counts towards the sandbox's limit. Under gVisor, it calls sysinfo, which
// describes only the sandbox there. Elsewhere, it reads the cgroup's files, or, if the sandbox can't see them, adds up
// the memory of all processes and temporary file systems. Its methods may be called concurrently.
type MemoryMeter struct {
	limit int64
	read  func() (MemoryUse, bool)
	peak  atomic.Int64 // the largest Total that Measure has returned since the last call of ResetPeak
	// OOMEvents is the path of the file that contains how many processes of the cgroup the OOM killer has killed. It is
	// empty if there is no such file.
	OOMEvents string
}

// Limit returns the sandbox's memory limit in bytes.
func (m *MemoryMeter) Limit() int64 { return m.limit }

// MemoryUse is how much memory is in use, in bytes.
type MemoryUse struct {
	Total int64
	// Heap is the part of Total that is gVisor's own memory, for example for the buffers of sockets: the heap of gVisor
	// beyond 128 MiB, as of its last garbage collection, which can be some hundred milliseconds ago. It is 0 if
	// Dormouse has not built the runsc.
	Heap int64
}

// Folders of the memory cgroup inside a container.
const (
	cgroupV1 = "/sys/fs/cgroup/memory/"
	cgroupV2 = "/sys/fs/cgroup/"
)

// memoryMounts are the file systems whose content is stored in memory.
var memoryMounts = append([]string{"/run/dormouse"}, kernelMounts...)

// kernelMounts are the memoryMounts that kernels can write to.
var kernelMounts = []string{"/workspace", "/tmp", "/dev/shm"}

// NewMemoryMeter returns a meter for a sandbox with this memory limit in bytes. It chooses the way to measure.
func NewMemoryMeter(limit int64) *MemoryMeter {
	m := &MemoryMeter{limit: limit, read: readBySum}
	// ours reports whether the number n that was read, a memory limit in bytes, is this sandbox's limit. A far higher
	// number is the limit of the whole machine or of a group of sandboxes. The highest limit that is this sandbox's own
	// is that of a gVisor sandbox's cgroup: twice m.limit plus 256 MiB.
	ours := func(n int64, ok bool) bool { return ok && n <= 2*limit+512*sandbox.MiB }
	switch {
	case OnGVisor() && ours(readTotal()):
		// /proc/meminfo is not used, because reading it takes up to a tenth of a second if there are many processes,
		// and it does not count gVisor's heap.
		m.read = readSysinfo
	case ours(readNumber(cgroupV2 + "memory.max")):
		m.read = func() (MemoryUse, bool) { return readCgroup(cgroupV2+"memory.current", cgroupV2+"memory.stat", "") }
		m.OOMEvents = cgroupV2 + "memory.events"
	case ours(readNumber(cgroupV1 + "memory.limit_in_bytes")):
		m.read = func() (MemoryUse, bool) {
			return readCgroup(cgroupV1+"memory.usage_in_bytes", cgroupV1+"memory.stat", "total_")
		}
		m.OOMEvents = cgroupV1 + "memory.oom_control"
	}
	return m
}

// Used returns the memory that counts towards the limit.
func (m *MemoryMeter) Used() MemoryUse {
	if use, ok := m.read(); ok {
		return use
	}
	use, _ := readBySum()
	return use
}

// Measure returns the memory that counts towards the limit, and updates the peak.
func (m *MemoryMeter) Measure() MemoryUse {
	use := m.Used()
	for peak := m.peak.Load(); use.Total > peak && !m.peak.CompareAndSwap(peak, use.Total); peak = m.peak.Load() {
	}
	return use
}

// Peak returns the most bytes that Measure has found since the last call of ResetPeak.
func (m *MemoryMeter) Peak() int64 { return m.peak.Load() }

// ResetPeak sets the peak to 0.
func (m *MemoryMeter) ResetPeak() { m.peak.Store(0) }

// Percent returns bytes as a percentage of the limit.
func (m *MemoryMeter) Percent(bytes int64) int { return int(bytes * 100 / m.limit) }

// OOMKills returns how many processes the OOM killer has killed, or 0 if there is no counter.
func (m *MemoryMeter) OOMKills() int64 {
	if m.OOMEvents == "" {
		return 0
	}
	return readField(m.OOMEvents, "oom_kill")
}

// readCgroup returns the cgroup's memory usage without the page cache of ordinary files, which Linux frees when
// memory is needed.
func readCgroup(usage, stat, prefix string) (MemoryUse, bool) {
	n, ok := readNumber(usage)
	if !ok {
		return MemoryUse{}, false
	}
	text, err := os.ReadFile(stat)
	if err != nil {
		return MemoryUse{Total: n}, true
	}
	return MemoryUse{Total: n - field(text, prefix+"inactive_file") - field(text, prefix+"active_file")}, true
}

func readBySum() (MemoryUse, bool) {
	var n int64
	for _, p := range List(-1) {
		n += p.RSS
	}
	return MemoryUse{Total: n + MountsUsed()}, true
}

// MountsUsed returns how many bytes the files in memoryMounts take.
func MountsUsed() int64 {
	var n int64
	for _, path := range memoryMounts {
		n += MountUsed(path)
	}
	return n
}

// KernelFiles counts the files of all types in the temporary file systems that kernels can write to.
func KernelFiles() (n int64) {
	for _, path := range kernelMounts {
		if s, ok := statTmpfs(path); ok {
			n += int64(s.Files - s.Ffree)
		}
	}
	return n
}

// MountUsed returns how many bytes are stored in a temporary file system, or 0 for any other file system.
func MountUsed(path string) int64 {
	s, ok := statTmpfs(path)
	if !ok {
		return 0
	}
	return int64(s.Blocks-s.Bfree) * int64(s.Bsize)
}

func statTmpfs(path string) (s syscall.Statfs_t, ok bool) {
	const tmpfs = 0x01021994
	err := syscall.Statfs(path, &s)
	return s, err == nil && s.Type == tmpfs
}

func readNumber(path string) (int64, bool) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n, err == nil
}

// OnGVisor reports whether the sandbox runs under gVisor, whose kernel release is "4.19.0-gvisor".
func OnGVisor() bool {
	var name syscall.Utsname
	if syscall.Uname(&name) != nil {
		return false
	}
	var release []byte
	for _, c := range name.Release {
		if c == 0 {
			break
		}
		release = append(release, byte(c))
	}
	return bytes.HasSuffix(release, []byte("-gvisor"))
}

func readTotal() (int64, bool) {
	var s syscall.Sysinfo_t
	if syscall.Sysinfo(&s) != nil {
		return 0, false
	}
	return int64(s.Totalram) * int64(s.Unit), true
}

// readSysinfo returns the memory use that gVisor reports with sysinfo. Bufferram contains the heap if Dormouse has
// built the runsc (third_party/runsc).
func readSysinfo() (MemoryUse, bool) {
	var s syscall.Sysinfo_t
	if syscall.Sysinfo(&s) != nil {
		return MemoryUse{}, false
	}
	unit := int64(s.Unit)
	return MemoryUse{Total: int64(s.Totalram-s.Freeram) * unit, Heap: int64(s.Bufferram) * unit}, true
}

func readField(path, name string) int64 {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	return field(text, name)
}

// field returns the number in the line "name number", or 0 if there is no such line.
func field(text []byte, name string) int64 {
	for line := range bytes.Lines(text) {
		if f := bytes.Fields(line); len(f) >= 2 && string(f[0]) == name {
			n, _ := strconv.ParseInt(string(f[1]), 10, 64)
			return n
		}
	}
	return 0
}
