package hostproc

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Process is a process that existed when [Open] was called. The caller must close it.
type Process struct {
	pid     int
	started string   // the start time, as in /proc/PID/stat
	dir     *os.File // the process's folder in /proc
}

// Open returns the process that currently has the pid.
func Open(pid int) (p Process, err error) {
	p.pid = pid
	if p.dir, err = os.OpenFile(Path(pid, ""), unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		return p, err
	}
	_, p.started, err = statOf(pid)
	if err != nil {
		p.dir.Close()
	}
	return p, err
}

// Close releases the process's folder in /proc.
func (p Process) Close() error { return p.dir.Close() }

// Read reads one of the process's files in /proc.
func (p Process) Read(name string) ([]byte, error) {
	file, err := OpenAt(p.dir, name, unix.O_RDONLY|unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(file)
}

// OpenAt opens a file in the process's folder in /proc. The file can be a link, such as cwd. flags are those of openat.
func (p Process) OpenAt(name string, flags int) (*os.File, error) { return OpenAt(p.dir, name, flags) }

// CheckLives returns an error if the process has ended, even if another process has the same pid now.
func (p Process) CheckLives() error {
	if _, err := p.Read("stat"); err != nil {
		return err
	}
	_, started, err := statOf(p.pid)
	if err == nil && started != p.started {
		err = fmt.Errorf("process %d has ended, and another process has its pid", p.pid)
	}
	return err
}

// CheckRunsAsRoot returns an error unless all user and group ids of the process are 0 and it sees the same files as
// this process. The effective user id alone is not enough: a set-user-id program gets its arguments and its working
// directory from the user who starts it.
func (p Process) CheckRunsAsRoot() error {
	status, err := p.Read("status")
	if err != nil {
		return err
	}
	for _, name := range []string{"Uid:", "Gid:"} {
		_, rest, _ := bytes.Cut(status, []byte("\n"+name))
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		if got := strings.Fields(string(line)); !slices.Equal(got, []string{"0", "0", "0", "0"}) {
			return fmt.Errorf("process %d does not run as root alone: %s %v", p.pid, name, got)
		}
	}
	if !SharesFileSystem(p.pid) {
		return fmt.Errorf("process %d has a file system of its own", p.pid)
	}
	return nil
}

// Parent returns the parent of a process.
func Parent(pid int) (int, error) {
	parent, _, err := statOf(pid)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(parent)
}

// statOf returns a process's parent and its start time, as in /proc/PID/stat.
func statOf(pid int) (parent, started string, err error) {
	stat, err := os.ReadFile(Path(pid, "stat"))
	if err != nil {
		return "", "", err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // the program's name, in parentheses before these fields, can contain any character
	if len(fields) < 20 {
		return "", "", fmt.Errorf("the state of process %d can't be read", pid)
	}
	return fields[1], fields[19], nil
}

// Named returns the pids of all processes that have the name, belong to root, and are in this process's pid namespace.
func Named(name string) (pids []int) {
	commands, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, path := range commands {
		text, err := os.ReadFile(path)
		if err != nil || strings.TrimSpace(string(text)) != name {
			continue
		}
		var stat unix.Stat_t
		dir := filepath.Dir(path)
		if unix.Stat(dir, &stat) != nil || stat.Uid != 0 || !sameLink(dir, "ns/pid") {
			continue
		}
		if _, err := os.Readlink(filepath.Join(dir, "ns/mnt")); err != nil {
			continue // the process is a zombie, which has no mount namespace
		}
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// SharesFileSystem reports whether the process pid has the same mount namespace and root folder as this process.
func SharesFileSystem(pid int) bool {
	dir := Path(pid, "")
	var its, ours unix.Stat_t
	return sameLink(dir, "ns/mnt") && unix.Stat(filepath.Join(dir, "root"), &its) == nil && unix.Stat("/", &ours) == nil &&
		its.Dev == ours.Dev && its.Ino == ours.Ino
}

func sameLink(dir, name string) bool {
	its, err := os.Readlink(filepath.Join(dir, name))
	ours, ownErr := os.Readlink(filepath.Join("/proc/self", name))
	return err == nil && ownErr == nil && its == ours
}

// OpenAt opens a file in an open folder. flags are those of openat.
func OpenAt(dir *os.File, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Path returns the path of a file of a process in /proc.
func Path(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}
