// Package cgroup limits sandboxes with the cgroups of this machine, and finds the processes of a sandbox in them.
//
//   - finding the cgroups of this machine: [Find] returns [Trees] (cgroup.go; linux.go for a user who is not root)
//   - an instance's cgroup: [Trees.Path], [Trees.Open], [Trees.Processes], [Trees.RanOutOfMemory], [Trees.Remove]
//   - the memory limit of the daemon itself: [MemoryLimit] (memory.go)
//
// The gVisor engine uses it. The engine's profile decides which limits a sandbox has. If the daemon runs as root, runsc
// sets these limits, and not this package.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
)

// Trees describes the cgroup trees that limit sandboxes on this machine: one tree of version 2, or one tree for each
// controller of version 1. If the daemon runs as root, runsc creates the cgroup of a sandbox from the profile. This
// cgroup is below the root of the trees and not below the daemon's cgroup, because the daemon's cgroup may be removed
// when the daemon ends. If another user runs the daemon, the cgroups are in the part of the tree that is delegated to
// this user (linux.go).
type Trees struct {
	Version int
	Base    string // the path, in the tree, of the part that is delegated to the user; empty for root
	Swap    bool   // cgroups can limit swap
	Missing string // why cgroups can't be used; empty if they can
	Remedy  string // how a person can make cgroups usable

	dirs []string // the folders of the trees, or of the part that is delegated to the user
	ours bool     // true if this package, and not runsc, creates the cgroups of sandboxes
}

// Limits are the limits that [Trees.Open] sets for a sandbox if the daemon does not run as root.
type Limits struct {
	Memory    int64  // the limit of memory, in bytes
	CPUQuota  int64  // the limit of CPU time in each period, in microseconds
	CPUPeriod uint64 // the length of a period, in microseconds
	Processes int64
}

const (
	mount       = "/sys/fs/cgroup"
	parentName  = "/dormouse"
	mountRemedy = "mount cgroups writable"
)

// needed lists the controllers that the limits of a sandbox need.
var needed = []string{"memory", "cpu", "pids"}

// Find returns the cgroups that can limit sandboxes on this machine. If cgroups can't be used, the field Missing of the
// result has the reason.
func Find() Trees {
	if os.Geteuid() != 0 {
		return delegated()
	}
	if text, err := os.ReadFile(mount + "/cgroup.controllers"); err == nil {
		t := Trees{Version: 2, dirs: []string{mount}, Remedy: mountRemedy}
		if name := missingController(string(text)); name != "" {
			t.Missing = "cgroup v2 has no " + name + " controller here"
		}
		return t.prepareParent()
	}
	t := Trees{Version: 1, Remedy: mountRemedy}
	entries, err := os.ReadDir(mount)
	if err != nil {
		t.Missing = "cgroups are not mounted"
		return t
	}
	for _, entry := range entries {
		tree := filepath.Join(mount, entry.Name())
		if _, err := os.Stat(filepath.Join(tree, "cgroup.procs")); err == nil && entry.Type()&fs.ModeSymlink == 0 {
			t.dirs = append(t.dirs, tree)
		}
	}
	for _, name := range needed {
		if _, err := os.Stat(filepath.Join(mount, name, "cgroup.procs")); err != nil {
			t.Missing = "cgroup v1 has no " + name + " controller here"
		}
	}
	_, err = os.Stat(mount + "/memory/memory.memsw.limit_in_bytes")
	t.Swap = err == nil
	return t.prepareParent()
}

// missingController returns the first needed controller that is missing in a list of controllers, or an empty string.
func missingController(controllers string) string {
	have := strings.Fields(controllers)
	for _, name := range needed {
		if !slices.Contains(have, name) {
			return name
		}
	}
	return ""
}

// prepareParent creates the parent cgroup of all sandboxes, and enables the controllers below it. It returns t with
// Missing and Remedy set if that fails.
func (t Trees) prepareParent() Trees {
	if t.Missing != "" {
		return t
	}
	parent := mount + "/memory" + parentName
	if t.Version == 2 {
		parent = mount + parentName
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		t.Missing = "cgroups can't be written here"
		return t
	}
	if t.Version == 1 {
		return t
	}
	// A cgroup has a controller only if the controller is enabled in its parent. systemd enables the controllers that its
	// units need, and disables others. It can't disable a controller that is also enabled further down in the tree. runsc
	// enables the controllers there for each sandbox.
	switch err := os.WriteFile(mount+"/cgroup.subtree_control", []byte("+"+strings.Join(needed, " +")), 0); {
	case errors.Is(err, syscall.EBUSY):
		// The root cgroup that this process sees contains processes, so controllers can't be enabled in it. Only the
		// machine's own root cgroup may have both processes and enabled controllers. This cgroup is the root of a
		// container.
		t.Missing = "the processes of this container are in its root cgroup, and version 2 can't limit cgroups below a cgroup that has processes"
		t.Remedy = "start it with the host's cgroup namespace (docker run --cgroupns=host), or move them into a cgroup of their own before dormouse starts"
	case err != nil:
		t.Missing = "controllers of cgroup v2 can't be enabled here"
	}
	_, err := os.Stat(parent + "/memory.swap.max") // the file does not exist if the machine's kernel has no swap support
	t.Swap = err == nil
	return t
}

// RunscIgnores reports whether runsc must ignore cgroups, because they can't be used or because [Trees.Open] creates them.
func (t Trees) RunscIgnores() bool { return t.Missing != "" || t.ours }

// Path returns the path of an instance's cgroup, which is the same in every tree, or an empty string if cgroups can't be
// used.
func (t Trees) Path(name string) string {
	if t.Missing != "" {
		return ""
	}
	return t.Base + parentName + "/" + name
}

// dirsOf returns the folders of an instance's cgroup, one for each tree. If name can't be the name of an instance, dirsOf
// returns none. For an empty name, for example, it would otherwise return the folders of the parent cgroup, which all
// homes share.
func (t Trees) dirsOf(name string) []string {
	if !folder.IsInstance(name) {
		return nil
	}
	var dirs []string
	for _, tree := range t.dirs {
		dirs = append(dirs, tree+parentName+"/"+name)
	}
	return dirs
}

// Open creates the cgroup of an instance, sets its limits, and returns the folder of the cgroup, which the caller must
// close. It returns nil if runsc creates the cgroup, or if l is nil because the instance has no cgroup.
func (t Trees) Open(name string, l *Limits) (*os.File, error) {
	if !t.ours || t.Missing != "" || l == nil {
		return nil, nil
	}
	dir := t.dirsOf(name)[0]
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	err := errors.Join(
		write(dir, "memory.max", strconv.FormatInt(l.Memory, 10)),
		write(dir, "cpu.max", fmt.Sprintf("%d %d", l.CPUQuota, l.CPUPeriod)),
		write(dir, "pids.max", strconv.FormatInt(l.Processes, 10)))
	// The file does not exist if the machine's kernel has no swap support.
	if swapErr := write(dir, "memory.swap.max", "0"); !errors.Is(swapErr, fs.ErrNotExist) {
		err = errors.Join(err, swapErr)
	}
	if err != nil {
		return nil, err
	}
	return os.Open(dir)
}

func write(dir, file, value string) error {
	return os.WriteFile(filepath.Join(dir, file), []byte(value), 0)
}

// Processes returns the pids of the processes in an instance's cgroup.
func (t Trees) Processes(name string) []int {
	var pids []int
	for _, dir := range t.dirsOf(name) {
		text, err := os.ReadFile(dir + "/cgroup.procs")
		if err != nil {
			continue
		}
		for field := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// RanOutOfMemory reports whether the machine's kernel killed a process of an instance because the instance had reached its
// memory limit.
func (t Trees) RanOutOfMemory(name string) bool {
	for _, dir := range t.dirsOf(name) {
		for _, name := range []string{"memory.events", "memory.oom_control"} {
			text, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(text)) {
				if n, is := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); is && n != "0" {
					return true
				}
			}
		}
	}
	return false
}

// Remove removes an instance's cgroup. Its processes must have ended. Remove retries for up to five seconds, because the
// machine's kernel may still count a process that has just ended.
func (t Trees) Remove(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, dir := range t.dirsOf(name) {
		for {
			err := os.Remove(dir)
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				break
			}
			select {
			case <-time.After(2 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("remove the cgroup of %s: %w", name, err)
			}
		}
	}
	return nil
}
