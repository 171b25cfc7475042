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
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
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
	remedy  string
}

const (
	cgroupMount  = "/sys/fs/cgroup"
	cgroupParent = "/dormouse"
	mountRemedy  = "mount cgroups writable"
)

// needed are the controllers without which a sandbox has no limits.
var needed = []string{"memory", "cpu", "pids"}

func findCgroups() cgroups {
	if rootless() {
		return delegatedCgroups()
	}
	if text, err := os.ReadFile(cgroupMount + "/cgroup.controllers"); err == nil {
		c := cgroups{version: 2, trees: []string{cgroupMount}, swap: true, remedy: mountRemedy}
		if name := lacks(string(text)); name != "" {
			c.missing = "cgroup v2 has no " + name + " controller here"
		}
		return c.tried()
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

// tried makes a cgroup, to see that it can.
func (c cgroups) tried() cgroups {
	if c.missing != "" {
		return c
	}
	tree := c.trees[0]
	if c.version == 1 {
		tree = filepath.Join(cgroupMount, "memory")
	}
	if err := os.MkdirAll(tree+cgroupParent, 0o755); err != nil {
		c.missing = "cgroups can't be written here"
	}
	return c
}

// path is a sandbox's cgroup in every tree; empty where there are none.
func (c cgroups) path(id sandbox.ID) string {
	if c.missing != "" {
		return ""
	}
	return c.base + cgroupParent + "/" + string(id)
}

func (c cgroups) dirs(id sandbox.ID) []string {
	var dirs []string
	for _, tree := range c.trees {
		dirs = append(dirs, tree+cgroupParent+"/"+string(id))
	}
	return dirs
}

// processes are those in the sandbox's cgroup.
func (c cgroups) processes(id sandbox.ID) []int {
	var pids []int
	for _, dir := range c.dirs(id) {
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

// ranOutOfMemory reports whether the kernel ended the sandbox for its memory.
func (c cgroups) ranOutOfMemory(id sandbox.ID) bool {
	for _, dir := range c.dirs(id) {
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

// remove removes the sandbox's cgroup, whose processes have ended. The kernel may need a
// moment to see that.
func (c cgroups) remove(ctx context.Context, id sandbox.ID) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, dir := range c.dirs(id) {
		for {
			err := os.Remove(dir)
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				break
			}
			select {
			case <-time.After(2 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("remove the cgroup of %s: %w", id, err)
			}
		}
	}
	return nil
}
