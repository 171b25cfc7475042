//go:build linux

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// delegated returns the cgroups of a user who is not root: the part of version 2's tree that systemd has delegated
// to the user's own systemd instance. runsc would set limits starting at the root of the tree, which only root may do.
// Therefore the engine creates the cgroup of a sandbox itself, and starts runsc in it.
func delegated() Trees {
	t := Trees{Version: 2, ours: true, Swap: true, Remedy: "run dormouse as root"}
	if _, err := os.Stat(mount + "/cgroup.controllers"); err != nil {
		t.Missing = "a user who is not root needs cgroup v2, which is not mounted at " + mount
		return t
	}
	if t.Base = writableCgroup(ownCgroup()); t.Base == "" {
		t.Missing = "this process is not in a cgroup of the user's systemd instance, as after a login by ssh or on a text console"
		t.Remedy = "start it with `systemd-run --user --scope dormouse …`, or run it as root"
		return t
	}
	tree := mount + t.Base
	t.dirs = []string{tree}
	text, _ := os.ReadFile(tree + "/cgroup.controllers")
	if name := missingController(string(text)); name != "" {
		t.Missing = "systemd does not delegate the " + name + " controller to users here"
		t.Remedy = "`sudo systemctl edit user@.service`, write [Service] and Delegate=cpu memory pids, and log in again"
		return t
	}
	parent := tree + parentName
	err := os.Mkdir(parent, 0o755)
	if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	for _, dir := range []string{tree, parent} {
		if err == nil {
			err = write(dir, "cgroup.subtree_control", "+"+strings.Join(needed, " +"))
		}
	}
	if err == nil {
		// 50 is half of the default weight. The cgroups of the user's other programs have the default weight.
		err = write(parent, "cpu.weight", "50")
	}
	if err != nil {
		t.Missing = fmt.Sprintf("the cgroup that is delegated to this user can't be used (%v)", err)
	}
	return t
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
	for ; group != "/" && unix.Access(mount+group+"/cgroup.procs", unix.W_OK) == nil; group = path.Dir(group) {
		highest = group
	}
	return highest
}
