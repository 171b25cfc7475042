package gvisor

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"strings"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/rootfs"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/runsc"
)

// Doctor checks this machine, and returns what is missing or weaker than it could be and how to fix it. ref is the image
// that sandboxes use.
func (e *Engine) Doctor(ctx context.Context, ref string) []engine.Check {
	checks := []engine.Check{ok("engine", "gvisor %s, %s", e.info.Version, e.info.Why), ok("runtime", "runsc: %s", e.info.Isolation)}
	checks = append(checks, e.systemChecks()...)
	checks = append(checks, e.sandboxCheck())
	switch has, err := e.HasImage(ctx, ref); {
	case err != nil:
		checks = append(checks, engine.Check{Name: "image", Status: engine.Bad, Detail: "it is unknown whether " + ref + " is here",
			Remedy: "check that " + e.images.Dir + " can be read"})
	case !has:
		checks = append(checks, engine.Check{Name: "image", Status: engine.Bad, Detail: ref + " is not here", Remedy: rootfs.NoImage(ref).Message})
	default:
		checks = append(checks, ok("image", "%s is here", ref))
	}
	return checks
}

// systemChecks returns the checks that do not depend on an image or a sandbox.
func (e *Engine) systemChecks() []engine.Check {
	checks := []engine.Check{e.cgroupCheck()}
	if runsc.Rootless() {
		checks = append(checks, ok("user", "not root: sandboxes run as this user, in user namespaces"))
	}
	if strings.Contains(e.cgroups.Base, "/user@") && !lingers() {
		checks = append(checks, engine.Check{Name: "logout", Status: engine.Weak,
			Detail: "systemd ends sandboxes when you log out, and they continue from their last checkpoint", Remedy: "loginctl enable-linger"})
	}
	if e.cgroups.Missing == "" && !e.cgroups.Swap && hasSwap() {
		checks = append(checks, engine.Check{Name: "swap limit", Status: engine.Weak, Detail: "swap can't be limited",
			Remedy: "a sandbox can swap beyond its memory: boot with swapaccount=1, use cgroup v2, or turn swap off"})
	}
	return append(checks, privacyCheck(e.layout.Dir))
}

func (e *Engine) cgroupCheck() engine.Check {
	if e.cgroups.Missing != "" {
		return engine.Check{Name: "cgroups", Status: engine.Weak, Detail: "sandboxes are not limited: " + e.cgroups.Missing,
			Remedy: "one sandbox can use up the machine: " + e.cgroups.Remedy}
	}
	if e.cgroups.Base != "" {
		return ok("cgroups", "version %d, below %s", e.cgroups.Version, e.cgroups.Base)
	}
	return ok("cgroups", "version %d", e.cgroups.Version)
}

// lingers reports whether systemd keeps the processes of this user running after the user has logged out.
func lingers() bool {
	me, err := user.Current()
	return err == nil && folder.Exists("/var/lib/systemd/linger/"+me.Username)
}

func hasSwap() bool {
	text, err := os.ReadFile("/proc/swaps")
	return err != nil || strings.Count(string(text), "\n") > 1
}

// privacyCheck checks that other users have no access to the engine's folder.
func privacyCheck(dir string) engine.Check {
	info, err := os.Stat(dir)
	if err == nil && info.Mode().Perm()&0o077 != 0 {
		return engine.Check{Name: "home", Status: engine.Weak, Detail: "other users of this machine can read the engine's folder", Remedy: "chmod 700 " + dir}
	}
	return ok("home", "only this user can read the engine's folder")
}

func ok(name, format string, args ...any) engine.Check {
	return engine.Check{Name: name, Status: engine.OK, Detail: fmt.Sprintf(format, args...)}
}
