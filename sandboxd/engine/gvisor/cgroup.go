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

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
)

// cgroups describes the cgroup trees that limit sandboxes on this machine: one tree of version 2, or one tree for each
// controller of version 1. If the daemon runs as root, runsc creates the cgroup of a sandbox from the profile. This
// cgroup is below the root of the trees and not below the daemon's cgroup, because the daemon's cgroup may be removed
// when the daemon ends. If another user runs the daemon, the cgroups are in the part of the tree that is delegated to
// this user (delegated.go).
type cgroups struct {
	version int
	trees   []string // the folders of the trees, or of the part that is delegated to the user
	base    string   // the path, in the tree, of the part that is delegated to the user; empty for root
	ours    bool     // true if the engine, and not runsc, creates the cgroups of sandboxes
	swap    bool     // cgroups can limit swap
	missing string   // why cgroups can't be used; empty if they can
	remedy  string   // how a person can make cgroups usable
}

const (
	cgroupMount  = "/sys/fs/cgroup"
	cgroupParent = "/dormouse"
	mountRemedy  = "mount cgroups writable"
)

// needed lists the controllers that the limits of a sandbox need.
var needed = []string{"memory", "cpu", "pids"}

func findCgroups() cgroups {
	if rootless() {
		return delegatedCgroups()
	}
	if text, err := os.ReadFile(cgroupMount + "/cgroup.controllers"); err == nil {
		c := cgroups{version: 2, trees: []string{cgroupMount}, remedy: mountRemedy}
		if name := missingController(string(text)); name != "" {
			c.missing = "cgroup v2 has no " + name + " controller here"
		}
		return c.prepareParent()
	}
	c := cgroups{version: 1, remedy: mountRemedy}
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
	return c.prepareParent()
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

// prepareParent creates the parent cgroup of all sandboxes, and enables the controllers below it. It returns c with
// missing and remedy set if that fails.
func (c cgroups) prepareParent() cgroups {
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
	// A cgroup has a controller only if the controller is enabled in its parent. systemd enables the controllers that its
	// units need. It does not disable a controller that is enabled further down, as runsc does for each sandbox.
	switch err := os.WriteFile(cgroupMount+"/cgroup.subtree_control", []byte("+"+strings.Join(needed, " +")), 0); {
	case errors.Is(err, syscall.EBUSY):
		// The root cgroup that this process sees contains processes, so controllers can't be enabled in it. Only the
		// machine's own root cgroup may have both processes and enabled controllers. This cgroup is the root of a
		// container.
		c.missing = "the processes of this container are in the cgroup that is its root, and below such a one version 2 has no limits"
		c.remedy = "start it with the host's cgroup namespace (docker run --cgroupns=host), or move them into a cgroup of their own before dormouse starts"
	case err != nil:
		c.missing = "controllers of cgroup v2 can't be enabled here"
	}
	_, err := os.Stat(parent + "/memory.swap.max") // the file does not exist if the machine's kernel has no swap support
	c.swap = err == nil
	return c
}

// path returns the path of an instance's cgroup, which is the same in every tree, or an empty string if cgroups can't be
// used.
func (c cgroups) path(name string) string {
	if c.missing != "" {
		return ""
	}
	return c.base + cgroupParent + "/" + name
}

// dirs returns the folders of an instance's cgroup, one for each tree. If name can't be the name of an instance, dirs
// returns none. For an empty name, for example, it would otherwise return the folders of the parent cgroup, which all
// homes share.
func (c cgroups) dirs(name string) []string {
	if !folder.IsInstance(name) {
		return nil
	}
	var dirs []string
	for _, tree := range c.trees {
		dirs = append(dirs, tree+cgroupParent+"/"+name)
	}
	return dirs
}

// processes returns the pids of the processes in an instance's cgroup.
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

// ranOutOfMemory reports whether the machine's kernel killed a process of an instance because the instance had reached its
// memory limit.
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

// remove removes an instance's cgroup. Its processes must have ended. remove retries for up to five seconds, because the
// machine's kernel may still count a process that has just ended.
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
