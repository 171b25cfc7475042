package docker

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/system"
	"github.com/docker/docker/api/types/versions"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// engineFacts contains everything that [profile] needs to know about an engine.
type engineFacts struct {
	Home    string // the value of the containers' label labelHome
	Runtime string
	// Remapped is true if the engine is rootless or remaps user namespaces. Container uids are then mapped to a range
	// of 65,536 uids on the host.
	Remapped bool
	// CgroupNS is true if the engine's API supports private cgroup namespaces.
	CgroupNS bool
	// CPULimit and PidsLimit are true if the engine can set these limits. An engine refuses a container with a CPU
	// limit that it can't set.
	CPULimit, PidsLimit bool
	// Filtered is true if the runtime is gVisor and has the argument that makes it apply the system call filter
	// inside the sandbox.
	Filtered bool
	// Overlay is true if the engine's storage driver uses the machine kernel's overlay file system. The engine can
	// then mount an overlay of the guest's files.
	Overlay bool
	// CopyPlaces are the folders in which containerd leaves copies of checkpoints (see package copies).
	CopyPlaces []string
	// CopiesStay is the reason why such copies can't be removed. It is empty if they can be removed.
	CopiesStay string
}

func factsOf(sys system.Info, home, apiVersion, runtime string) engineFacts {
	facts := engineFacts{
		Home:      home,
		Runtime:   runtime,
		Remapped:  hasOption(sys, "rootless") || hasOption(sys, "userns"),
		CgroupNS:  versions.GreaterThanOrEqualTo(apiVersion, "1.41"),
		CPULimit:  sys.CPUCfsQuota,
		PidsLimit: sys.PidsLimit,
		Overlay:   sys.Driver == "overlay2" || sys.Driver == "overlayfs",
	}
	facts.Filtered = facts.gvisor() && slices.ContainsFunc(sys.Runtimes[runtime].Args, func(arg string) bool {
		return strings.TrimLeft(arg, "-") == seccompArg || strings.TrimLeft(arg, "-") == seccompArg+"=true"
	})
	return facts
}

// seccompArg is an argument of runsc. Without it, runsc ignores the system call filter.
const seccompArg = "oci-seccomp"

// gvisor reports whether the runtime is gVisor. A runtime counts as gVisor if its name begins with "runsc".
func (f engineFacts) gvisor() bool { return strings.HasPrefix(f.Runtime, "runsc") }

func (f engineFacts) isolation() string {
	switch {
	case f.gvisor():
		return "gVisor: a kernel of its own for each sandbox"
	case f.Remapped:
		return "containers on the host's kernel, in a user namespace, with a hardened profile"
	}
	return "containers on the host's kernel with a hardened profile"
}

// hasOption reports whether the engine lists a security option, such as "name=seccomp,profile=default".
func hasOption(sys system.Info, name string) bool {
	return slices.ContainsFunc(sys.SecurityOptions, func(o string) bool {
		return o == name || o == "name="+name || strings.HasPrefix(o, "name="+name+",")
	})
}

// chooseRuntime returns the runtime to use and the reason. It checks only that the engine lists the runtime;
// `dormouse doctor` starts a sandbox to find out whether the runtime works. If a runtime that the user asked for is
// missing, or if a listed runsc does not work, Dormouse uses no other runtime instead, because that would silently
// weaken the isolation.
func chooseRuntime(asked string, sys system.Info) (name, why string, err error) {
	has := func(name string) bool { _, ok := sys.Runtimes[name]; return ok }
	switch {
	case asked != "" && asked != "auto":
		if !has(asked) {
			return "", "", sandbox.Errorf(sandbox.Unavailable,
				"the Docker engine has no runtime %q, only %s: add it to the engine, or choose another with --runtime",
				sandbox.Quote(asked), strings.Join(slices.Sorted(maps.Keys(sys.Runtimes)), ", "))
		}
		return asked, "runtime " + asked + " as asked for", nil
	case has("runsc"):
		return "runsc", "runtime runsc because the engine has it", nil
	case sys.DefaultRuntime != "":
		return sys.DefaultRuntime, fmt.Sprintf("runtime %s, the engine's default, because it has no runsc", sys.DefaultRuntime), nil
	}
	return "runc", "runtime runc because the engine has no runsc", nil
}

// imageFacts contains everything about an image that matters to a sandbox.
type imageFacts struct {
	ID      string   // identifies the image even if its tag moves to another image
	Arch    string   // the architecture, as a GOARCH
	Path    string   // the image's PATH
	Volumes []string // paths that the image declares as volumes
}

func imageFactsOf(img image.InspectResponse) imageFacts {
	f := imageFacts{ID: img.ID, Arch: img.Architecture, Path: defaultPath}
	if img.Config == nil {
		return f
	}
	for _, kv := range img.Config.Env {
		if path, ok := strings.CutPrefix(kv, "PATH="); ok && path != "" {
			f.Path = path
		}
	}
	f.Volumes = slices.Sorted(maps.Keys(img.Config.Volumes))
	return f
}

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
