//go:build linux

package gvisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// delegatedCgroups returns the cgroups of a user who is not root: the part of version 2's tree that systemd has delegated
// to the user's own systemd instance. runsc would set limits starting at the root of the tree, which only root may do.
// Therefore the engine creates the cgroup of a sandbox itself, and starts runsc in it.
func delegatedCgroups() cgroups {
	c := cgroups{version: 2, ours: true, swap: true, remedy: "run dormouse as root"}
	if _, err := os.Stat(cgroupMount + "/cgroup.controllers"); err != nil {
		c.missing = "only cgroup v2 can be given to who is not root, and it is not at " + cgroupMount + " here"
		return c
	}
	if c.base = writableCgroup(ownCgroup()); c.base == "" {
		c.missing = "this process is in no cgroup of the user's systemd, as after a login by ssh or on a text console"
		c.remedy = "start it with `systemd-run --user --scope dormouse …`, or run it as root"
		return c
	}
	tree := cgroupMount + c.base
	c.trees = []string{tree}
	text, _ := os.ReadFile(tree + "/cgroup.controllers")
	if name := missingController(string(text)); name != "" {
		c.missing = "systemd gives users no " + name + " controller here"
		c.remedy = "`sudo systemctl edit user@.service`, write [Service] and Delegate=cpu memory pids, and log in anew"
		return c
	}
	parent := tree + cgroupParent
	err := os.Mkdir(parent, 0o755)
	if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	for _, dir := range []string{tree, parent} {
		if err == nil {
			err = writeCgroup(dir, "cgroup.subtree_control", "+"+strings.Join(needed, " +"))
		}
	}
	if err == nil {
		// Half of the default weight, which the cgroups of the user's other programs have.
		err = writeCgroup(parent, "cpu.weight", "50")
	}
	if err != nil {
		c.missing = fmt.Sprintf("the cgroup that this user was given can't be used (%v)", err)
	}
	return c
}

// ownCgroup returns the path of this process's cgroup in version 2's tree.
func ownCgroup() string {
	text, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(text)) {
		if group, is := strings.CutPrefix(strings.TrimSpace(line), "0::"); is {
			return path.Clean(group)
		}
	}
	return "/"
}

// writableCgroup returns the highest cgroup, among group and its parents, that this user may move processes into, or an
// empty string if there is none.
func writableCgroup(group string) (highest string) {
	for ; group != "/" && unix.Access(cgroupMount+group+"/cgroup.procs", unix.W_OK) == nil; group = path.Dir(group) {
		highest = group
	}
	return highest
}

func writeCgroup(dir, file, value string) error {
	return os.WriteFile(filepath.Join(dir, file), []byte(value), 0)
}

// open creates the cgroup of an instance, sets its limits, and returns the folder of the cgroup, which the caller must
// close. It returns nil if runsc creates the cgroup, or if the instance has no cgroup.
func (c cgroups) open(name string, r *ociResources) (*os.File, error) {
	if !c.ours || c.missing != "" || r == nil {
		return nil, nil
	}
	dir := c.dirs(name)[0]
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	err := errors.Join(
		writeCgroup(dir, "memory.max", strconv.FormatInt(r.Memory.Limit, 10)),
		writeCgroup(dir, "cpu.max", fmt.Sprintf("%d %d", r.CPU.Quota, r.CPU.Period)),
		writeCgroup(dir, "pids.max", strconv.FormatInt(r.Pids.Limit, 10)))
	// The file does not exist if the machine's kernel has no swap support.
	if swapErr := writeCgroup(dir, "memory.swap.max", "0"); !errors.Is(swapErr, fs.ErrNotExist) {
		err = errors.Join(err, swapErr)
	}
	if err != nil {
		return nil, err
	}
	return os.Open(dir)
}
