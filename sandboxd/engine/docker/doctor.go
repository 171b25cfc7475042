package docker

import (
	"context"
	"fmt"
	"strings"

	"github.com/docker/docker/api/types/system"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
)

// Doctor checks the engine and reports what could be safer or faster, and how. ref is the image that sandboxes use.
func (e *Engine) Doctor(ctx context.Context, ref string) []engine.Check {
	checks := []engine.Check{ok("engine", "%s %s, %s", e.info.Name, e.info.Version, e.info.Why)}
	sys, err := e.api.Info(ctx)
	if err != nil {
		return append(checks, bad("engine", "does not answer any more", "check that it runs: docker info"))
	}
	checks = append(checks, systemChecks(sys, e.componentVersions(ctx), e.facts)...)
	switch has, err := e.HasImage(ctx, ref); {
	case err != nil:
		checks = append(checks, bad("image", "the engine did not report whether it has "+ref, "check that it runs: docker info"))
	case !has:
		checks = append(checks, bad("image", ref+" is not here", noImage(ref).Message))
	default:
		checks = append(checks, ok("image", "%s is here", ref))
	}
	return checks
}

// componentVersions returns the versions of the engine's components by name. The map is empty if the engine does not
// report them.
func (e *Engine) componentVersions(ctx context.Context) map[string]string {
	versions := map[string]string{}
	if v, err := e.api.ServerVersion(ctx); err == nil { // without versions, the checks of minimum versions report "not said"
		for _, c := range v.Components {
			versions[c.Name] = c.Version
		}
	}
	return versions
}

// systemChecks checks an engine by what it reports about itself.
func systemChecks(sys system.Info, versions map[string]string, facts engineFacts) []engine.Check {
	checks := []engine.Check{
		checkVersion("docker version", sys.ServerVersion, dockerMinimums),
		checkVersion("containerd version", versions["containerd"], containerdMinimums),
		runtimeCheck(sys, facts),
	}
	if facts.Runtime == "runc" {
		checks = append(checks, checkVersion("runc version", versions["runc"], runcMinimums))
	}
	return append(checks,
		okIf(hasOption(sys, "seccomp"), "seccomp", engine.Bad, "system calls are not filtered",
			"use a kernel and an engine with seccomp"),
		okIf(hasOption(sys, "apparmor") || hasOption(sys, "selinux"), "apparmor or selinux", engine.Weak, "there is no mandatory access control around containers",
			"enable AppArmor or SELinux on the engine's machine, or use runsc"),
		okIf(!facts.gvisor() || facts.Filtered, "seccomp in gVisor", engine.Weak,
			"gVisor ignores the sandboxes' allowlist of system calls; the guest refuses new namespaces and mounts, and gVisor's kernel answers all other calls (if the runtime is a wrapper around runsc, its arguments are not checked)",
			`add "runtimeArgs": ["--`+seccompArg+`"] to the runtime `+facts.Runtime+` in the engine's daemon.json, and restart the engine`),
		okIf(facts.Remapped || facts.gvisor(), "user namespace", engine.Weak, "root in the engine is root on the machine",
			"use rootless Docker, userns-remap or runsc"),
		okIf(sys.MemoryLimit, "memory limit", engine.Bad, "one sandbox can use up the machine's memory",
			"enable the memory cgroup"),
		okIf(sys.SwapLimit || sys.CgroupVersion == "2", "swap limit", engine.Weak, "a sandbox can use swap beyond its memory limit",
			"boot with swapaccount=1, use cgroup v2, or turn swap off"),
		okIf(sys.CPUCfsQuota, "cpu limit", engine.Bad, "one sandbox can slow down all others",
			"enable CFS quotas (rootless: delegate the cpu controller)"),
		okIf(sys.PidsLimit, "process limit", engine.Bad, "a fork bomb can use up the machine's processes",
			"enable the pids cgroup (rootless: delegate the pids controller)"),
		okIf(sys.LiveRestoreEnabled, "live restore", engine.Weak, "a restart of the engine ends all sandboxes",
			`set "live-restore": true in the engine's daemon.json`),
		suspendCheck(sys, versions, facts),
		cgroupCheck(sys),
		storageCheck(sys),
		guestCheck(facts),
	)
}

// suspendCheck reports where the memory of a suspended sandbox is, and how to get it stored on disk.
func suspendCheck(sys system.Info, versions map[string]string, facts engineFacts) engine.Check {
	const name = "suspend"
	if suspensionOf(sys, versions, facts) == engine.ToDisk {
		return ok(name, "to disk: a suspended sandbox uses no memory, and can be forked; Dormouse removes the copies of its memory that containerd leaves in %s",
			strings.Join(facts.CopyPlaces, ", "))
	}
	var remedies []string
	if _, has := sys.Runtimes["runsc"]; !has && !facts.gvisor() {
		remedies = append(remedies, "install gVisor's runsc as a runtime of the engine")
	} else if !facts.gvisor() {
		remedies = append(remedies, "use --runtime runsc")
	}
	if !sys.ExperimentalBuild {
		remedies = append(remedies, `set "experimental": true in the engine's daemon.json`)
	}
	detail := "a suspended sandbox is paused: it keeps its memory, and is lost when the machine stops"
	if facts.gvisor() && facts.CopiesStay != "" {
		detail += "; sandboxes are not suspended to disk, because each resume would leave a copy of the memory in containerd's temporary folder, which Dormouse can't remove: " + facts.CopiesStay
		remedies = append(remedies, "run Dormouse as root on the engine's machine, outside of a container")
	}
	remedies = append(remedies, "or use --engine gvisor")
	return weak(name, detail, strings.Join(remedies, ", "))
}

func runtimeCheck(sys system.Info, facts engineFacts) engine.Check {
	_, has := sys.Runtimes["runsc"]
	detail := "sandboxes share the machine's kernel, so a bug in it can let code out of a sandbox (" + facts.Runtime + ")"
	switch {
	case facts.gvisor():
		return ok("runtime", "%s: %s", facts.Runtime, facts.isolation())
	case has:
		return weak("runtime", detail, "use --runtime runsc, which the engine has")
	}
	return weak("runtime", detail, "install gVisor's runsc as a runtime of the engine")
}

func cgroupCheck(sys system.Info) engine.Check {
	detail := "cgroup v" + sys.CgroupVersion + ", driver " + sys.CgroupDriver
	if sys.CgroupDriver == "none" {
		return bad("cgroups", "the engine can't set limits", "use a machine with cgroup v2 and systemd, which rootless engines need for limits")
	}
	return ok("cgroups", "%s", detail)
}

func storageCheck(sys system.Info) engine.Check {
	switch sys.Driver {
	case "vfs", "devicemapper", "aufs":
		return weak("storage", "driver "+sys.Driver, "use overlay2: without it sandboxes start slowly")
	}
	return ok("storage", "driver %s", sys.Driver)
}

// guestCheck checks whether sandboxes share the guest's files.
func guestCheck(facts engineFacts) engine.Check {
	const name = "guest's files"
	if facts.gvisor() || facts.Overlay {
		return ok(name, "each sandbox has its own view of them")
	}
	return weak(name, "sandboxes share them, so one sandbox can see when another starts a kernel, and can lock them",
		"use overlay2 (or containerd's overlayfs) as the engine's storage driver, or runsc")
}

// okIf returns an OK check if its first parameter is true, and otherwise a check with the given status, detail and
// remedy.
func okIf(is bool, name string, status engine.Status, detail, remedy string) engine.Check {
	if is {
		return ok(name, "yes")
	}
	return engine.Check{Name: name, Status: status, Detail: detail, Remedy: remedy}
}

func ok(name, format string, args ...any) engine.Check {
	return engine.Check{Name: name, Status: engine.OK, Detail: strings.TrimSpace(fmt.Sprintf(format, args...))}
}

func weak(name, detail, remedy string) engine.Check {
	return engine.Check{Name: name, Status: engine.Weak, Detail: detail, Remedy: remedy}
}

func bad(name, detail, remedy string) engine.Check {
	return engine.Check{Name: name, Status: engine.Bad, Detail: detail, Remedy: remedy}
}
