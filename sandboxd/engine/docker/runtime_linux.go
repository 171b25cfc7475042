package docker

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// maxOptions is far above what containerd writes (a hundred bytes).
const maxOptions = 64 << 10

// localRuntime returns the OCI runtime of a container, of which the engine says that its first process is pid. It is asked of
// containerd's shim, which is that process's parent and runs in the folder of the container's bundle, where
// containerd notes which runtime the shim calls. Only root can call it, and believes nobody else.
func localRuntime(container string, pid int) (r ociRuntime, ok bool) {
	if os.Geteuid() != 0 || pid <= 0 {
		return r, false
	}
	shim, ok := parentOf(pid)
	if !ok {
		return r, false
	}
	namespace, ok := namespaceOf(shim, container)
	if !ok {
		return r, false
	}
	bundle := procPath(shim, "cwd")
	file, err := os.Open(filepath.Join(bundle, "options.json"))
	if err != nil {
		return r, false
	}
	defer file.Close()
	folder, err := os.Stat(bundle)
	if err != nil || !onlyRootWrites(folder) {
		return r, false
	}
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() || !onlyRootWrites(info) {
		return r, false
	}
	var options struct {
		Binary string `json:"binary_name"`
		Root   string `json:"root"`
	}
	if err := json.NewDecoder(io.LimitReader(file, maxOptions)).Decode(&options); err != nil || options.Binary == "" || options.Root == "" {
		return r, false // a shim that calls no runtime
	}
	return ociRuntime{options.Binary, filepath.Join(options.Root, namespace)}, true
}

func parentOf(pid int) (int, bool) {
	stat, err := os.ReadFile(procPath(pid, "stat"))
	if err != nil {
		return 0, false
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // a program's name may be anything
	if len(fields) < 2 {
		return 0, false
	}
	parent, err := strconv.Atoi(fields[1])
	return parent, err == nil
}

// namespaceOf returns the namespace, in containerd, of a container whose shim a process is. A pid of another machine is
// no such process.
func namespaceOf(shim int, container string) (string, bool) {
	command, err := os.ReadFile(procPath(shim, "cmdline"))
	if err != nil {
		return "", false
	}
	args := strings.Split(string(command), "\x00")
	after := func(flag string) string {
		if i := slices.Index(args, flag); i >= 0 && i+1 < len(args) {
			return args[i+1]
		}
		return ""
	}
	namespace := after("-namespace")
	return namespace, after("-id") == container && namespace != "" && filepath.IsLocal(namespace)
}

func onlyRootWrites(info os.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Uid == 0 && info.Mode().Perm()&0o022 == 0
}

func procPath(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}
