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

// memoryMeter measures what counts against the sandbox's memory limit: sysinfo where that is the sandbox's own
// (gVisor), else the cgroup's number where the sandbox can see it, else the sum over processes and temporary file systems.
type memoryMeter struct {
	limit int64
	read  func() (int64, bool)
	// oomEvents is a file with the count of processes that the kernel's OOM killer ended here.
	oomEvents string
}

// Folders of the memory cgroup, as containers see them.
const (
	cgroupV1 = "/sys/fs/cgroup/memory/"
	cgroupV2 = "/sys/fs/cgroup/"
)

// memoryMounts are the file systems whose content is memory.
var memoryMounts = append([]string{"/run/dormouse"}, kernelMounts...)

// kernelMounts are those that kernels can write.
var kernelMounts = []string{"/workspace", "/tmp", "/dev/shm"}

func newMemoryMeter(limit int64) *memoryMeter {
	m := &memoryMeter{limit: limit, read: readBySum}
	// A cgroup without a limit near ours is somebody else's. Under gVisor its limit stands above ours.
	ours := func(n int64, ok bool) bool { return ok && n <= 2*limit+512*sandbox.MiB }
	switch {
	case onGVisor() && ours(readSysinfo(func(s *syscall.Sysinfo_t) uint64 { return s.Totalram })):
		// /proc/meminfo takes up to a tenth of a second when there are many processes, and does not count gVisor's heap.
		m.read = func() (int64, bool) {
			return readSysinfo(func(s *syscall.Sysinfo_t) uint64 { return s.Totalram - s.Freeram })
		}
	case ours(readNumber(cgroupV2 + "memory.max")):
		m.read = func() (int64, bool) { return readCgroup(cgroupV2+"memory.current", cgroupV2+"memory.stat", "") }
		m.oomEvents = cgroupV2 + "memory.events"
	case ours(readNumber(cgroupV1 + "memory.limit_in_bytes")):
		m.read = func() (int64, bool) {
			return readCgroup(cgroupV1+"memory.usage_in_bytes", cgroupV1+"memory.stat", "total_")
		}
		m.oomEvents = cgroupV1 + "memory.oom_control"
	}
	return m
}

// used returns the bytes that count.
func (m *memoryMeter) used() int64 {
	if n, ok := m.read(); ok {
		return n
	}
	n, _ := readBySum()
	return n
}

// oomKills returns the OOM killer's counter, or 0 where there is none.
func (m *memoryMeter) oomKills() int64 {
	if m.oomEvents == "" {
		return 0
	}
	return readField(m.oomEvents, "oom_kill")
}

// readCgroup is usage without the page cache of ordinary files, which the kernel gives back when
// it is needed.
func readCgroup(usage, stat, prefix string) (int64, bool) {
	n, ok := readNumber(usage)
	if !ok {
		return 0, false
	}
	text, err := os.ReadFile(stat)
	if err != nil {
		return n, true
	}
	return n - field(text, prefix+"inactive_file") - field(text, prefix+"active_file"), true
}

func readBySum() (int64, bool) {
	var n int64
	for _, p := range processes(-1) {
		n += p.rss
	}
	return n + mountsUsed(), true
}

// mountsUsed sums what files in memory take.
func mountsUsed() int64 {
	var n int64
	for _, path := range memoryMounts {
		n += mountUsed(path)
	}
	return n
}

// filesIn counts the files of all kinds in temporary file systems.
func filesIn(mounts []string) (n int64) {
	for _, path := range mounts {
		if s, ok := statTmpfs(path); ok {
			n += int64(s.Files - s.Ffree)
		}
	}
	return n
}

// mountUsed is what a temporary file system holds, and 0 for any other.
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

// onGVisor reads it from the kernel's release, "4.19.0-gvisor".
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

func readSysinfo(bytesOf func(*syscall.Sysinfo_t) uint64) (int64, bool) {
	var s syscall.Sysinfo_t
	if syscall.Sysinfo(&s) != nil {
		return 0, false
	}
	return int64(bytesOf(&s)) * int64(s.Unit), true
}

func readField(path, name string) int64 {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	return field(text, name)
}

// field finds "name number" in a file of such lines.
func field(text []byte, name string) int64 {
	for line := range bytes.Lines(text) {
		if f := bytes.Fields(line); len(f) >= 2 && string(f[0]) == name {
			n, _ := strconv.ParseInt(string(f[1]), 10, 64)
			return n
		}
	}
	return 0
}
