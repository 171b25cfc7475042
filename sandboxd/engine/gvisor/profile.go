package gvisor

import (
	"cmp"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/stdio"
)

const (
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	cpuPeriod   = 100_000 // the period of the CPU quota, in microseconds
)

// facts is the input of [profile] that depends on the machine or the image.
type facts struct {
	Root  string // the image's root file system
	Path  string // the image's PATH
	Guest string // the guest's folder
	Etc   string // the folder of [folder.EtcFiles]
	// Cgroup is the path of the sandbox's cgroup, or empty if cgroups can't be used. Swap means that cgroups can limit
	// swap.
	Cgroup string
	Swap   bool
}

// profile returns the OCI configuration that isolates a sandbox. It is a pure function, so that a change to isolation is a
// change to testdata/profile.golden.json, which a reviewer sees. The flags of runsc ([runsc.Flags]) are the other part of
// the isolation. profile returns the Docker engine's configuration, with these differences:
//
//   - gVisor's kernel applies the seccomp profile ([engine.Seccomp]). gVisor has another filter for the system calls that
//     it makes on the machine.
//   - There is no limit of inodes: runsc does not pass one to its tmpfs. The guest counts files instead.
//   - The masked and read-only paths are set, but gVisor's /proc and /sys contain nothing to mask.
func profile(spec engine.Spec, f facts) ociSpec {
	seccomp := engine.Seccomp(true)
	capabilities := []string{"CAP_KILL", "CAP_SETGID", "CAP_SETUID"}
	s := ociSpec{
		Version:  "1.0.2",
		Hostname: folder.Hostname,
		Root:     ociRoot{Path: f.Root, Readonly: true},
		Process: ociProcess{
			// The guest runs as uid 0, with three capabilities. Kernels run as spec.UID, without capabilities.
			User: ociUser{0, 0},
			Args: append(engine.GuestArgs(spec), stdio.Flag),
			// The working directory can't be /workspace: uid 0 can't enter it without CAP_DAC_OVERRIDE.
			Cwd: "/",
			Env: []string{"PATH=" + cmp.Or(f.Path, defaultPath), "LANG=C.UTF-8", "HOME=" + sandbox.Workspace, "HOSTNAME=" + folder.Hostname},
			Capabilities: ociCapabilities{Bounding: capabilities, Effective: capabilities, Permitted: capabilities,
				Inheritable: []string{}, Ambient: []string{}},
			NoNewPrivileges: true,
			Rlimits: []ociRlimit{
				rlimit("CORE", 0),
				rlimit("FSIZE", engine.FileSize(spec.Limits)),
				rlimit("NOFILE", engine.MaxOpenFiles),
			},
		},
		Mounts: mounts(spec, f),
		Linux: ociLinux{
			// For an entry without a path, runsc creates a new namespace.
			Namespaces:    []ociNamespace{{"pid"}, {"network"}, {"ipc"}, {"uts"}, {"mount"}},
			MaskedPaths:   engine.MaskedPaths(),
			ReadonlyPaths: engine.ReadonlyPaths(),
			Seccomp:       &seccomp,
		},
	}
	if f.Cgroup != "" {
		s.Linux.CgroupsPath = f.Cgroup
		s.Linux.Resources = resources(spec.Limits, f.Swap)
	}
	return s
}

func resources(l sandbox.Limits, swap bool) *ociResources {
	memory := engine.GVisorMemory(l)
	r := &ociResources{
		Memory: ociMemory{Limit: memory},
		CPU:    ociCPU{Shares: 512, Quota: int64(l.CPUs * cpuPeriod), Period: cpuPeriod}, // 512 is half of the default CPU shares of a cgroup
		Pids:   ociPids{Limit: int64(l.Processes + engine.GuestPids + engine.GVisorPids)},
	}
	if swap {
		r.Memory.Swap = &memory // no swap: the limit of memory and swap together equals the limit of memory
	}
	return r
}

func rlimit(name string, n int64) ociRlimit {
	return ociRlimit{Type: "RLIMIT_" + name, Soft: uint64(n), Hard: uint64(n)}
}

// mounts returns the mounts over the image's files. The files in writable mounts are kept in memory, which counts towards
// the sandbox's memory limit. The only files of the host that are mounted are the guest's files and the files in the
// engine's etc folder.
func mounts(spec engine.Spec, f facts) []ociMount {
	list := []ociMount{
		{"/proc", "proc", "proc", []string{"nosuid", "noexec", "nodev"}},
		{"/dev", "tmpfs", "tmpfs", []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{"/dev/pts", "devpts", "devpts", []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{"/dev/shm", "tmpfs", "tmpfs", []string{"nosuid", "noexec", "nodev", "mode=1777", size(engine.ShmBytes)}},
		{"/sys", "sysfs", "sysfs", []string{"nosuid", "noexec", "nodev", "ro"}},
		// Programs in /workspace and /tmp may be executed: noexec would break compiled libraries, and would not stop scripts,
		// because an interpreter needs no exec bit.
		{sandbox.Workspace, "tmpfs", "tmpfs", []string{"nosuid", "nodev", "mode=0700", size(spec.Limits.WorkspaceBytes),
			fmt.Sprintf("uid=%d", spec.UID), fmt.Sprintf("gid=%d", spec.UID)}},
		{"/tmp", "tmpfs", "tmpfs", []string{"nosuid", "nodev", "mode=1777", size(spec.Limits.WorkspaceBytes / 2)}},
		{engine.RunDir, "tmpfs", "tmpfs", []string{"nosuid", "noexec", "nodev", "mode=0700", size(engine.RunDirBytes)}},
		{engine.BundleDir, "bind", f.Guest, []string{"bind", "ro", "nosuid", "nodev"}},
	}
	for _, name := range []string{"hostname", "hosts", "resolv.conf"} {
		list = append(list, ociMount{"/etc/" + name, "bind", filepath.Join(f.Etc, name), []string{"bind", "ro", "nosuid", "nodev", "noexec"}})
	}
	return list
}

func size(n int64) string { return "size=" + strconv.FormatInt(n, 10) }
