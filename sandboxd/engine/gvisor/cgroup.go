package gvisor

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
)

// cgroups is what limits sandboxes on this machine: a tree of version 2, or one for each
// controller of version 1. runsc makes a sandbox's, from the profile; it stands at the
// root of the trees, because the daemon's own may end with the daemon. Who is not root has a part of the tree
// (delegated.go).
type cgroups struct {
	version int
	trees   []string // where they are mounted
	base    string   // of the part of the tree that is the user's; empty for root, who has all
	ours    bool     // we make a sandbox's, not runsc
	swap    bool
	missing string // why they can't be used
	remedy  string // what to do about it
}

const (
	cgroupMount  = "/sys/fs/cgroup"
	cgroupParent = "/dormouse"
	mountThem    = "mount cgroups writable"
)

// needed are the controllers without which a sandbox has no limits.
var needed = []string{"memory", "cpu", "pids"}

func findCgroups() cgroups {
	if rootless() {
		return delegatedCgroups()
	}
	if text, err := os.ReadFile(cgroupMount + "/cgroup.controllers"); err == nil {
		c := cgroups{version: 2, trees: []string{cgroupMount}, remedy: mountThem}
		if name := lacks(string(text)); name != "" {
			c.missing = "cgroup v2 has no " + name + " controller here"
		}
		return c.tried()
	}
	c := cgroups{version: 1, remedy: mountThem}
	entries, err := os.ReadDir(cgroupMount)
	if err != nil {
		c.missing = "cgroups are not mounted"
		return c
	}
	for _, entry := range entries {
		tree := filepath.Join(cgroupMount, entry.Name())
		if _, err := os.Stat(filepath.Join(tree, "cgroup.procs")); err == nil && entry.Type()&fs.ModeSymlink == 0 {
			c.trees = append(c.trees, tree)
		}
	}
	for _, name := range needed {
		if _, err := os.Stat(filepath.Join(cgroupMount, name, "cgroup.procs")); err != nil {
			c.missing = "cgroup v1 has no " + name + " controller here"
		}
	}
	_, err = os.Stat(cgroupMount + "/memory/memory.memsw.limit_in_bytes")
	c.swap = err == nil
	return c.tried()
}

// lacks is what a list of controllers has not, and is needed.
func lacks(controllers string) string {
	have := strings.Fields(controllers)
	for _, name := range needed {
		if !slices.Contains(have, name) {
			return name
		}
	}
	return ""
}

// tried makes the cgroup that sandboxes' are in, to see that it can.
func (c cgroups) tried() cgroups {
	if c.missing != "" {
		return c
	}
	parent := cgroupMount + "/memory" + cgroupParent
	if c.version == 2 {
		parent = cgroupMount + cgroupParent
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		c.missing = "cgroups can't be written here"
		return c
	}
	if c.version == 1 {
		return c
	}
	// A controller is there for the cgroups below one where it is enabled. systemd enables what its units need, and takes none away
	// that is enabled further down, as runsc does for a sandbox.
	switch err := os.WriteFile(cgroupMount+"/cgroup.subtree_control", []byte("+"+strings.Join(needed, " +")), 0); {
	case errors.Is(err, syscall.EBUSY):
		// Only the machine's own root may have both. This is a container's.
		c.missing = "the processes of this container are in the cgroup that is its root, and below such a one version 2 has no limits"
		c.remedy = "start it with the host's cgroup namespace (docker run --cgroupns=host), or move them into a cgroup of their own before dormouse starts"
	case err != nil:
		c.missing = "controllers of cgroup v2 can't be enabled here"
	}
	_, err := os.Stat(parent + "/memory.swap.max") // not of a kernel without swap
	c.swap = err == nil
	return c
}

// path is an instance's cgroup in every tree; empty where there are none.
func (c cgroups) path(name string) string {
	if c.missing != "" {
		return ""
	}
	return c.base + cgroupParent + "/" + name
}

// dirs returns the folders of an instance's cgroup. It returns none for a name that is not an instance's: with an empty name,
// they would be the folders of the cgroup that all homes share.
func (c cgroups) dirs(name string) []string {
	if !isInstance(name) {
		return nil
	}
	var dirs []string
	for _, tree := range c.trees {
		dirs = append(dirs, tree+cgroupParent+"/"+name)
	}
	return dirs
}

// processes are those in an instance's cgroup.
func (c cgroups) processes(name string) []int {
	var pids []int
	for _, dir := range c.dirs(name) {
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

// ranOutOfMemory reports whether the kernel ended an instance for its memory.
func (c cgroups) ranOutOfMemory(name string) bool {
	for _, dir := range c.dirs(name) {
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

// remove removes an instance's cgroup, whose processes have ended. The kernel may need a
// moment to see that.
func (c cgroups) remove(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, dir := range c.dirs(name) {
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
