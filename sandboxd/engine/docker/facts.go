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

// engineFacts is all that [profile] needs to know of an engine.
type engineFacts struct {
	Home    string // label of the containers
	Runtime string
	// Remapped: container uids are host uids of a range of 65,536, because the engine
	// is rootless or remaps user namespaces.
	Remapped bool
	// CgroupNS: the API knows private cgroup namespaces.
	CgroupNS bool
	// CPULimit and PidsLimit: the engine can set them. Asking for a CPU limit that it
	// can't set would be refused.
	CPULimit, PidsLimit bool
	// Filtered: the runtime is gVisor and has the argument with which it applies the filter of system calls inside the sandbox.
	Filtered bool
	// Overlay: the engine's storage driver uses the machine kernel's overlay file system, so the engine can mount an overlay of the
	// guest's files.
	Overlay bool
	// CopyPlaces are the folders in which containerd leaves copies of checkpoints, which [Engine.removeCopies] removes.
	CopyPlaces []string
	// CopiesStay is the reason why such copies can't be removed. Empty: they can be removed.
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

// seccompArg is the argument of runsc without which it ignores the filter of system calls.
const seccompArg = "oci-seccomp"

// gvisor reports whether the runtime is gVisor, which has a kernel of its own.
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

// hasOption looks for a security option such as "name=seccomp,profile=default".
func hasOption(sys system.Info, name string) bool {
	return slices.ContainsFunc(sys.SecurityOptions, func(o string) bool {
		return o == name || o == "name="+name || strings.HasPrefix(o, "name="+name+",")
	})
}

// chooseRuntime returns the runtime to use and why. That it is listed does not prove
// that it works: `dormouse doctor` starts a sandbox to see. It never falls back from a
// runtime that was asked for, or from runsc once chosen: that would be weaker in silence.
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

// imageFacts is all that matters of an image.
type imageFacts struct {
	ID      string   // pins the image, whatever its tag does meanwhile
	Arch    string   // GOARCH
	Path    string   // the image's PATH
	Volumes []string // paths that it declares as volumes
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
