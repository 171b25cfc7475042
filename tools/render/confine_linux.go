package render

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"

	"golang.org/x/sys/unix"
)

// confineWorker limits the resources and rights of this process. A worker must call it before it reads the picture,
// which may be hostile.
func confineWorker() error {
	data, err := dataSize()
	if err != nil {
		return err
	}
	limits := []struct {
		resource int
		value    uint64
	}{
		{unix.RLIMIT_DATA, data + workerMemory}, // private writable memory
		{unix.RLIMIT_CPU, workerCPU},
		{unix.RLIMIT_NOFILE, workerFiles}, // Go's network poller needs a few files
		{unix.RLIMIT_FSIZE, 0},
		{unix.RLIMIT_CORE, 0},
	}
	for _, l := range limits {
		if err := unix.Setrlimit(l.resource, &unix.Rlimit{Cur: l.value, Max: l.value}); err != nil {
			return fmt.Errorf("limit a worker: %w", err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("confine a worker: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("confine a worker: %w", err)
	}
	return nil
}

// dataSize returns how many bytes of this process count towards RLIMIT_DATA now. Most of them are memory that the Go
// runtime has reserved.
func dataSize() (uint64, error) {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, fmt.Errorf("read a worker's size: %w", err)
	}
	fields := bytes.Fields(text)
	if len(fields) < 6 {
		return 0, fmt.Errorf("/proc/self/statm has %d fields", len(fields))
	}
	pages, err := strconv.ParseUint(string(fields[5]), 10, 64)
	return pages * uint64(os.Getpagesize()), err
}

// workerPath returns a path of this program's file. The path refers to the running program even after an update has
// replaced the file.
func workerPath() (string, error) { return "/proc/self/exe", nil }

func hideWindow(*exec.Cmd) {}
