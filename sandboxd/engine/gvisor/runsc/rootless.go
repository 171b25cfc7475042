//go:build linux

package runsc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Rootless reports whether the daemon runs as a user who is not root.
func Rootless() bool { return os.Geteuid() != 0 }

// asRoot makes a command run in a new user namespace, in which the daemon's user is root and no other user exists. Each
// call of runsc has its own namespace. This is sufficient: in each of these namespaces, processes and files that runsc
// creates belong to the daemon's user, so that a later daemon may signal the processes, connect to their sockets and read
// their checkpoints. All files of an image belong to the daemon's user, and so to root inside the sandbox. For kernels
// this makes no difference, because they own no files of an image in any case.
func asRoot(attr *syscall.SysProcAttr) {
	attr.Cloneflags |= syscall.CLONE_NEWUSER
	attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
	attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	// The mount namespace is created in a second step, after the user namespace. If AppArmor allows the user namespace
	// but gives its root no capabilities, this step fails, so that TryNamespace detects this case.
	attr.Unshareflags |= syscall.CLONE_NEWNS
}

// TryNamespace returns an error if the daemon's user is not root and can't become root in a user namespace on this
// machine. To check this, it runs program in such a namespace.
func TryNamespace(program string) error {
	if !Rootless() {
		return nil
	}
	cmd := exec.Command(program, "--version")
	detach(cmd)
	if err := cmd.Start(); err != nil {
		return whyNoNamespace(os.DirFS("/proc/sys"), program, err)
	}
	if err := cmd.Wait(); err != nil {
		return sandbox.Errorf(sandbox.Unavailable, "%s can't be run; rebuild it with `make build`", program).WithCause(err)
	}
	return nil
}

// whyNoNamespace returns the error for a user namespace that could not be created. Its message names the setting that
// forbids user namespaces. The parameter sys is the folder /proc/sys.
func whyNoNamespace(sys fs.FS, program string, cause error) *sandbox.Error {
	is := func(setting, value string) bool {
		text, err := fs.ReadFile(sys, strings.ReplaceAll(setting, ".", "/"))
		return err == nil && strings.TrimSpace(string(text)) == value
	}
	const sysctl = "`sudo sysctl -w %s`, and put that setting into /etc/sysctl.d to keep it"
	var why string
	switch {
	case is("user.max_user_namespaces", "0"):
		why = "this machine allows none: " + fmt.Sprintf(sysctl, "user.max_user_namespaces=15000")
	case is("kernel.unprivileged_userns_clone", "0"):
		why = "this machine allows only root to create one: " + fmt.Sprintf(sysctl, "kernel.unprivileged_userns_clone=1")
	case is("kernel.apparmor_restrict_unprivileged_userns", "1"):
		self, err := os.Executable()
		if err != nil {
			self = program
		}
		why = fmt.Sprintf("AppArmor allows only programs with a profile to create one: "+
			`echo 'abi <abi/4.0>, profile dormouse "%s" flags=(unconfined) { userns, }' | sudo tee /etc/apparmor.d/dormouse && sudo apparmor_parser -r /etc/apparmor.d/dormouse`, self)
	default:
		why = fmt.Sprintf("it can't be created (%v), for example because a container forbids it", cause)
	}
	return sandbox.Errorf(sandbox.Unavailable, "without root the gvisor engine needs a user namespace, and %s. Or run dormouse as root, or use a Docker engine", why).
		WithCause(errors.Join(folder.ErrNoNamespace, cause))
}
