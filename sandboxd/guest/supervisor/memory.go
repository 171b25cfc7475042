//go:build linux

package supervisor

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// memoryMeter measures the memory that counts towards the sandbox's limit. Under gVisor, it calls sysinfo, which
// describes only the sandbox there. Otherwise, it reads the cgroup's files if the sandbox can see them. Otherwise, it
// adds up the memory of all processes and temporary file systems.
type memoryMeter struct {
	limit int64
	read  func() (memoryUse, bool)
	// oomEvents is the path of the file that contains how many processes of the cgroup the OOM killer has killed. It is
	// empty if there is no such file.
	oomEvents string
}

// memoryUse is how much memory is in use, in bytes.
type memoryUse struct {
	total int64
	// heap is the part of total that is gVisor's own memory, for example for the buffers of sockets: the heap of gVisor
	// beyond 128 MiB, as of its last garbage collection, which can be some hundred milliseconds ago. It is 0 if
	// Dormouse has not built the runsc.
	heap int64
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

func newMemoryMeter(limit int64) *memoryMeter {
	m := &memoryMeter{limit: limit, read: readBySum}
	// A number far above m.limit is the limit of more than this sandbox, for example of the whole machine. The limit of
	// a gVisor sandbox's cgroup is twice m.limit plus 256 MiB.
	ours := func(n int64, ok bool) bool { return ok && n <= 2*limit+512*sandbox.MiB }
	switch {
	case onGVisor() && ours(readTotal()):
		// /proc/meminfo is not used, because reading it takes up to a tenth of a second if there are many processes,
		// and it does not count gVisor's heap.
		m.read = readSysinfo
	case ours(readNumber(cgroupV2 + "memory.max")):
		m.read = func() (memoryUse, bool) { return readCgroup(cgroupV2+"memory.current", cgroupV2+"memory.stat", "") }
		m.oomEvents = cgroupV2 + "memory.events"
	case ours(readNumber(cgroupV1 + "memory.limit_in_bytes")):
		m.read = func() (memoryUse, bool) {
			return readCgroup(cgroupV1+"memory.usage_in_bytes", cgroupV1+"memory.stat", "total_")
		}
		m.oomEvents = cgroupV1 + "memory.oom_control"
	}
	return m
}

// used returns the memory that counts towards the limit.
func (m *memoryMeter) used() memoryUse {
	if use, ok := m.read(); ok {
		return use
	}
	use, _ := readBySum()
	return use
}

// percent returns bytes as a percentage of the limit.
func (m *memoryMeter) percent(bytes int64) int { return int(bytes * 100 / m.limit) }

// oomKills returns how many processes the OOM killer has killed, or 0 if there is no counter.
func (m *memoryMeter) oomKills() int64 {
	if m.oomEvents == "" {
		return 0
	}
	return readField(m.oomEvents, "oom_kill")
}

// readCgroup returns the cgroup's memory usage without the page cache of ordinary files, which Linux frees when
// memory is needed.
func readCgroup(usage, stat, prefix string) (memoryUse, bool) {
	n, ok := readNumber(usage)
	if !ok {
		return memoryUse{}, false
	}
	text, err := os.ReadFile(stat)
	if err != nil {
		return memoryUse{total: n}, true
	}
	return memoryUse{total: n - field(text, prefix+"inactive_file") - field(text, prefix+"active_file")}, true
}

func readBySum() (memoryUse, bool) {
	var n int64
	for _, p := range processes(-1) {
		n += p.rss
	}
	return memoryUse{total: n + mountsUsed()}, true
}

// mountsUsed returns how many bytes the files in memoryMounts take.
func mountsUsed() int64 {
	var n int64
	for _, path := range memoryMounts {
		n += mountUsed(path)
	}
	return n
}

// filesIn counts the files of all types in the mounts that are temporary file systems.
func filesIn(mounts []string) (n int64) {
	for _, path := range mounts {
		if s, ok := statTmpfs(path); ok {
			n += int64(s.Files - s.Ffree)
		}
	}
	return n
}

// mountUsed returns how many bytes are stored in a temporary file system, or 0 for any other file system.
func mountUsed(path string) int64 {
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

// onGVisor reports whether the sandbox runs under gVisor, whose kernel release is "4.19.0-gvisor".
func onGVisor() bool {
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
func readSysinfo() (memoryUse, bool) {
	var s syscall.Sysinfo_t
	if syscall.Sysinfo(&s) != nil {
		return memoryUse{}, false
	}
	unit := int64(s.Unit)
	return memoryUse{total: int64(s.Totalram-s.Freeram) * unit, heap: int64(s.Bufferram) * unit}, true
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
