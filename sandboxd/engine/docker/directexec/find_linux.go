package directexec

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/docker/hostproc"
)

// maxOptions limits how many bytes of a shim's options.json are read. containerd writes about a hundred.
const maxOptions = 64 << 10

// Find returns the OCI runtime of a container, and false if it can't be found or called. Only root can call the
// runtime. pid is the pid of the container's first process, as the engine reports it. The parent of that process is
// containerd's shim, in whose working directory containerd records which runtime the shim calls. Find trusts only
// processes of root, and only files that no other user can write.
func Find(container string, pid int) (Runtime, bool) {
	if os.Geteuid() != 0 || pid <= 0 {
		return Runtime{}, false
	}
	shim, err := hostproc.Parent(pid)
	if err != nil {
		return Runtime{}, false
	}
	r, err := shimRuntime(shim, container)
	if err != nil {
		return Runtime{}, false
	}
	again, err := hostproc.Parent(pid)
	return r, err == nil && again == shim
}

// shimRuntime returns the runtime that the shim with the process id pid calls for a container.
func shimRuntime(pid int, container string) (r Runtime, err error) {
	shim, err := hostproc.Open(pid)
	if err != nil {
		return r, err
	}
	defer shim.Close()
	if err := shim.CheckRunsAsRoot(); err != nil {
		return r, err
	}
	namespace, err := namespaceOf(shim, pid, container)
	if err != nil {
		return r, err
	}
	// The folder is opened once, and the file in it relative to the folder's descriptor. The folder's path, and the
	// link to it in /proc, could lead to another folder when they are used again.
	bundle, err := shim.OpenAt("cwd", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return r, err
	}
	defer bundle.Close()
	if err := checkOnlyRootWrites(bundle, unix.S_IFDIR); err != nil {
		return r, err
	}
	file, err := hostproc.OpenAt(bundle, "options.json", unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK)
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
		return r, errors.New("options.json names no runtime")
	}
	// If the shim still exists now, its pid belonged to no other process during the checks above.
	if err := shim.CheckLives(); err != nil {
		return r, err
	}
	return Runtime{options.Binary, filepath.Join(options.Root, namespace)}, nil
}

// namespaceOf returns the containerd namespace of a container. It returns an error if the process is not the
// container's shim, because the pid can come from an engine on another machine and then belongs to an unrelated process
// on this one.
func namespaceOf(p hostproc.Process, pid int, container string) (string, error) {
	command, err := p.Read("cmdline")
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
		return "", fmt.Errorf("process %d is not the shim of container %s", pid, container)
	}
	return namespace, nil
}

// checkOnlyRootWrites returns an error unless an open file is of the type kind (such as S_IFREG), belongs to root, and
// can't be written by other users.
func checkOnlyRootWrites(file *os.File, kind uint32) error {
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return err
	}
	if stat.Mode&unix.S_IFMT != kind || stat.Uid != 0 || stat.Mode&0o022 != 0 {
		return fmt.Errorf("other users than root can write %s: it belongs to user %[3]d and has mode %[2]o", file.Name(), stat.Mode, stat.Uid)
	}
	return nil
}
