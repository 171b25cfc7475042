//go:build linux

// Package process measures and controls the processes of a sandbox: it starts them, acts with their user's rights,
// lists them, kills them and measures their memory. Package supervisor is its only caller. The package does not decide
// when a process must end, and identifies kernels only by their pids.
//
//   - [Reaper] (reaper.go): starts programs, and is the only caller of wait4
//   - [User] (user.go): runs a function with the rights of the kernels' user (RunAs), kills all its processes (KillAll)
//   - [Process], [List] (process.go): what /proc contains about processes
//   - [Killer] (killer.go): kills kernels and the processes that they leave behind, against hostile code
//   - [MemoryMeter] (memory.go): measures the memory that counts towards the sandbox's limit
//
// Under gVisor a system call is slow, and a fork bomb makes it slower. The functions that run often, or during a fork
// bomb, make as few system calls as possible.
package process

import (
	"bytes"
	"math"
	"os"
	"strconv"
	"syscall"
	"time"
)

// Process describes a process of the sandbox, from /proc/PID/stat.
type Process struct {
	PID     int
	Session int
	Start   int64 // when the process started, in ticks since boot (see [Now])
	Zombie  bool
	Threads int
	RSS     int64         // resident memory in bytes
	CPU     time.Duration // CPU time of the process and of the children that it has reaped
}

// List returns the processes of the user uid, except the guest. The uid -1 means every user, and saves reading one
// file for each process.
func List(uid int) []Process {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	list := make([]Process, 0, 16)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == os.Getpid() {
			continue
		}
		if p, ok := Read(pid); ok && (uid < 0 || ownedBy(pid, uid)) {
			list = append(list, p)
		}
	}
	return list
}

// Read parses /proc/PID/stat. Its second field is the program's name, which may contain any characters, so the
// other fields are parsed from the last parenthesis on.
func Read(pid int) (Process, bool) {
	stat, err := readProc("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return Process{}, false
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 22 {
		return Process{}, false
	}
	number := func(field int) int64 { // fields are numbered as in proc(5)
		n, _ := strconv.ParseInt(string(fields[field-3]), 10, 64)
		return n
	}
	return Process{
		PID:     pid,
		Session: int(number(6)),
		Start:   number(22),
		Zombie:  fields[0][0] == 'Z' || fields[0][0] == 'X',
		Threads: int(number(20)),
		RSS:     number(24) * int64(os.Getpagesize()),
		CPU:     time.Duration(number(14)+number(15)+number(16)+number(17)) * tick,
	}, true
}

// tick is the unit of times in /proc. USER_HZ is 100 on every architecture that we support.
const tick = time.Second / 100

// Now returns the current time on the clock of [Process].Start, in ticks since boot. It is never ahead of that
// clock, but can be two ticks behind, because gVisor rounds the time to the nearest tick.
func Now() int64 {
	text, _ := readProc("/proc/uptime")
	seconds, _, _ := bytes.Cut(text, []byte(" "))
	uptime, _ := strconv.ParseFloat(string(seconds), 64)
	return max(int64(math.Round(uptime*float64(time.Second/tick)))-1, 0)
}

// ownedBy reports whether a process has this real uid. It does not use the owner of the process's folder in /proc,
// because root owns the folder of a process that is not dumpable.
func ownedBy(pid, uid int) bool {
	status, err := readProc("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return false
	}
	_, rest, ok := bytes.Cut(status, []byte("\nUid:"))
	fields := bytes.Fields(rest[:min(len(rest), 64)])
	return ok && len(fields) > 0 && string(fields[0]) == strconv.Itoa(uid)
}

// readProc reads a file of /proc that has at most 4 KiB. It makes three system calls instead of the nine of
// os.ReadFile, because they are nearly the whole cost of listing processes under gVisor.
func readProc(path string) ([]byte, error) {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer syscall.Close(fd)
	buf := make([]byte, 4<<10)
	n, err := syscall.Read(fd, buf)
	return buf[:max(n, 0)], err
}
