package docker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxOptions limits how many bytes of a shim's options.json are read. containerd writes about a hundred.
const maxOptions = 64 << 10

// localRuntime returns the OCI runtime of a container, and false if it can't be found or called. pid is the pid of the
// container's first process, as the engine reports it. The parent of that process is containerd's shim, in whose
// working directory containerd records which runtime the shim calls. Only root can call the runtime. localRuntime
// trusts no file that another user could have written, and no process that is not root's.
func localRuntime(container string, pid int) (ociRuntime, bool) {
	if os.Geteuid() != 0 || pid <= 0 {
		return ociRuntime{}, false
	}
	shim, err := parentOf(pid)
	if err != nil {
		return ociRuntime{}, false
	}
	r, err := shimRuntime(shim, container)
	if err != nil {
		return ociRuntime{}, false
	}
	again, err := parentOf(pid)
	return r, err == nil && again == shim
}

// shimRuntime returns the runtime that the shim with the process id pid calls for a container.
func shimRuntime(pid int, container string) (r ociRuntime, err error) {
	shim, err := openProcess(pid)
	if err != nil {
		return r, err
	}
	defer shim.dir.Close()
	if err := shim.checkRunsAsRoot(); err != nil {
		return r, err
	}
	namespace, err := shim.namespaceOf(container)
	if err != nil {
		return r, err
	}
	// The folder is opened once, and the file in it relative to the folder's descriptor. The folder's path, and the
	// link to it in /proc, could lead to another folder when they are used again.
	bundle, err := openAt(shim.dir, "cwd", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return r, err
	}
	defer bundle.Close()
	if err := checkOnlyRootWrites(bundle, unix.S_IFDIR); err != nil {
		return r, err
	}
	file, err := openAt(bundle, "options.json", unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if err != nil {
		return r, err
	}
	defer file.Close()
	if err := checkOnlyRootWrites(file, unix.S_IFREG); err != nil {
		return r, err
	}
	var options struct {
		Binary string `json:"binary_name"`
		Root   string `json:"root"`
	}
	if err := json.NewDecoder(io.LimitReader(file, maxOptions)).Decode(&options); err != nil {
		return r, err
	}
	if options.Binary == "" || options.Root == "" {
		return r, errors.New("the shim calls no runtime")
	}
	// If the shim still exists now, its pid belonged to no other process during the checks above.
	if err := shim.lives(); err != nil {
		return r, err
	}
	return ociRuntime{options.Binary, filepath.Join(options.Root, namespace)}, nil
}

// process is a process that existed when openProcess was called.
type process struct {
	pid     int
	started string   // the start time, as in /proc/PID/stat
	dir     *os.File // the process's folder in /proc
}

func openProcess(pid int) (p process, err error) {
	p.pid = pid
	if p.dir, err = os.OpenFile(procPath(pid, ""), unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		return p, err
	}
	_, p.started, err = statOf(pid)
	if err != nil {
		p.dir.Close()
	}
	return p, err
}

// read reads one of the process's files in /proc.
func (p process) read(name string) ([]byte, error) {
	file, err := openAt(p.dir, name, unix.O_RDONLY|unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(file)
}

// lives returns an error if the process has ended, even if another process has the same pid now.
func (p process) lives() error {
	if _, err := p.read("stat"); err != nil {
		return err
	}
	_, started, err := statOf(p.pid)
	if err == nil && started != p.started {
		err = fmt.Errorf("process %d is another one by now", p.pid)
	}
	return err
}

// checkRunsAsRoot returns an error unless all user and group ids of the process are 0 and it sees the same files as
// this process. The effective user id alone is not enough: a set-user-id program gets its arguments and its working
// directory from the user who starts it.
func (p process) checkRunsAsRoot() error {
	status, err := p.read("status")
	if err != nil {
		return err
	}
	for _, name := range []string{"Uid:", "Gid:"} {
		_, rest, _ := bytes.Cut(status, []byte("\n"+name))
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		if got := strings.Fields(string(line)); !slices.Equal(got, []string{"0", "0", "0", "0"}) {
			return fmt.Errorf("process %d is not root's: %s %v", p.pid, name, got)
		}
	}
	if !sharesFileSystem(p.pid) {
		return fmt.Errorf("process %d has a file system of its own", p.pid)
	}
	return nil
}

// namespaceOf returns the containerd namespace of a container. It returns an error if the process is not the
// container's shim, because the pid can come from an engine on another machine and then belongs to an unrelated process
// on this one.
func (p process) namespaceOf(container string) (string, error) {
	command, err := p.read("cmdline")
	if err != nil {
		return "", err
	}
	args := strings.Split(string(command), "\x00")
	after := func(flag string) string {
		if i := slices.Index(args, flag); i >= 0 && i+1 < len(args) {
			return args[i+1]
		}
		return ""
	}
	namespace := after("-namespace")
	if after("-id") != container || namespace == "" || !filepath.IsLocal(namespace) {
		return "", fmt.Errorf("process %d is not the shim of %s", p.pid, container)
	}
	return namespace, nil
}

// parentOf returns the parent of a process.
func parentOf(pid int) (int, error) {
	parent, _, err := statOf(pid)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(parent)
}

// statOf returns a process's parent and its start time, as in /proc/PID/stat.
func statOf(pid int) (parent, started string, err error) {
	stat, err := os.ReadFile(procPath(pid, "stat"))
	if err != nil {
		return "", "", err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // the program's name, in parentheses before these fields, can contain any character
	if len(fields) < 20 {
		return "", "", fmt.Errorf("the state of process %d can't be read", pid)
	}
	return fields[1], fields[19], nil
}

// openAt opens a file in an open folder. flags are those of openat.
func openAt(dir *os.File, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// checkOnlyRootWrites returns an error unless an open file is of the type kind (such as S_IFREG), belongs to root, and
// can't be written by other users.
func checkOnlyRootWrites(file *os.File, kind uint32) error {
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return err
	}
	if stat.Mode&unix.S_IFMT != kind || stat.Uid != 0 || stat.Mode&0o022 != 0 {
		return fmt.Errorf("%s is not root's alone: mode %o of user %d", file.Name(), stat.Mode, stat.Uid)
	}
	return nil
}

func procPath(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}
