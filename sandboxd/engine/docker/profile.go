package docker

import (
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Labels of our containers and volumes. They contain only ids and numbers, because every client of the engine can
// read them.
const (
	labelHome    = "dormouse.home"    // the home of the daemon that owns the container
	labelSandbox = "dormouse.sandbox" // the sandbox's id
	labelSchema  = "dormouse.schema"  // the version of these labels
	labelGuest   = "dormouse.guest"   // the guest's build, on volumes
	schema       = "1"
)

var labelValue = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

const namePrefix = "dormouse-"

// nameOf returns the name of a sandbox's container while the sandbox is not suspended to disk.
func nameOf(id sandbox.ID) string { return namePrefix + string(id) }

// profile returns the container configuration of a sandbox: everything that isolates it. It is a pure function, so
// that a change to isolation shows in a review as a change to testdata/*.golden.json. docs/isolation.md gives the
// reason for each field.
func profile(spec engine.Spec, facts engineFacts, img imageFacts, guest guestVolume) (*container.Config, *container.HostConfig) {
	spec.UID = mapUID(spec.UID, facts)
	config := &container.Config{
		Image: img.ID,
		// The guest runs as uid 0 with three capabilities. Kernels run as spec.UID with no capabilities.
		User:     "0:0",
		Hostname: "sandbox",
		// The guest can't start in /workspace: it has no CAP_DAC_OVERRIDE, so it can't enter that folder although it
		// is uid 0.
		WorkingDir:  "/",
		Entrypoint:  engine.GuestArgs(spec),
		Cmd:         []string{},
		Env:         []string{"PATH=" + cmp.Or(img.Path, defaultPath), "LANG=C.UTF-8", "HOME=" + sandbox.Workspace},
		OpenStdin:   false,
		Tty:         false,
		Healthcheck: &container.HealthConfig{Test: []string{"NONE"}},
		StopSignal:  "SIGKILL", // the guest needs no graceful stop: everything worth keeping is saved before the sandbox is stopped
		Labels: map[string]string{
			labelHome:    facts.Home,
			labelSandbox: string(spec.ID),
			labelSchema:  schema,
		},
	}
	host := &container.HostConfig{
		Runtime: facts.Runtime,
		// The sandbox's only network interface is lo. See also NetworkDisabled below.
		NetworkMode: "none",
		CapDrop:     []string{"ALL"},
		CapAdd:      []string{"KILL", "SETGID", "SETUID"},
		SecurityOpt: []string{"no-new-privileges", "seccomp=" + seccompText(facts.gvisor())},
		Privileged:  false,

		// No file of the host is mounted. The guest's volume contains only Dormouse's own files.
		ReadonlyRootfs: true,
		Mounts:         []mount.Mount{guestMount(guest.Name, engine.BundleDir)},
		Tmpfs:          tmpfs(spec, img),
		MaskedPaths:    engine.MaskedPaths(),
		ReadonlyPaths:  engine.ReadonlyPaths(),

		// The sandbox sees nothing of other containers.
		IpcMode: "private",
		ShmSize: engine.ShmBytes,

		// The daemon, not the engine, decides when the sandbox ends. The engine stores none of the sandbox's output.
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyDisabled},
		AutoRemove:    false,
		LogConfig:     container.LogConfig{Type: "none"},

		OomScoreAdj: engine.OOMScoreAdj,
		Resources:   resources(spec.Limits, facts),
	}
	host.Init = new(false) // the guest is PID 1 and reaps zombies, so no other init is needed
	if facts.Overlay && !facts.gvisor() && overlayable(guest.Folder) && overlayable(guest.Empty) {
		// The volume itself is mounted only so that the engine does not remove it while the sandbox exists. The sandbox
		// can't see the volume's files at maskedVolume, because that path is masked.
		host.Mounts = []mount.Mount{guestMount(guest.Name, maskedVolume), privateView(guest)}
		host.MaskedPaths = append(host.MaskedPaths, maskedVolume)
	}
	if facts.gvisor() {
		// With NetworkDisabled, lo would be down under gVisor. Without NetworkDisabled, the engine writes resolv.conf,
		// which must not contain the machine's own DNS servers.
		host.DNS, host.DNSSearch, host.DNSOptions = []string{"127.0.0.1"}, []string{"."}, []string{}
	} else {
		// The engine sets up no network at all, which is more robust and twice as fast. The runtime brings lo up. The
		// name localhost resolves only if the image's /etc/hosts contains it.
		config.NetworkDisabled = true
	}
	if facts.CgroupNS {
		host.CgroupnsMode = container.CgroupnsModePrivate
	}
	return config, host
}

// maskedVolume is where the guest's volume is mounted in a sandbox that has a private view of the guest's files.
const maskedVolume = "/opt/dormouse-volume"

func guestMount(volume, target string) mount.Mount {
	return mount.Mount{Type: mount.TypeVolume, Source: volume, Target: target, ReadOnly: true,
		VolumeOptions: &mount.VolumeOptions{NoCopy: true}}
}

// privateView returns a mount of the guest's files as an overlay that only one sandbox has. Without the overlay,
// sandboxes on the same machine would share the files: with inotify, a sandbox would see when another sandbox starts a
// Python or JavaScript kernel, and it could lock the files. The engine makes the overlay as an anonymous volume, which
// it removes with the container. A read-only overlay needs two lower layers, so the second layer is an empty volume.
func privateView(guest guestVolume) mount.Mount {
	return mount.Mount{Type: mount.TypeVolume, Target: engine.BundleDir, // ReadOnly is not set, because engines reject it for a volume without a name
		VolumeOptions: &mount.VolumeOptions{NoCopy: true, DriverConfig: &mount.Driver{Name: "local", Options: map[string]string{
			"type": "overlay", "device": "overlay", "o": "ro,lowerdir=" + guest.Folder + ":" + guest.Empty,
		}}}}
}

// overlayable reports whether the options of an overlay can contain a folder's path. They can't if the path has a
// character with a special meaning in these options.
func overlayable(folder string) bool { return folder != "" && !strings.ContainsAny(folder, `:,\ `) }

// seccompText returns the system call filter as JSON for the engine. gVisor ignores it unless the engine's runtime
// has the argument --oci-seccomp ([engineFacts].Filtered).
func seccompText(gvisor bool) string {
	text, err := json.Marshal(engine.Seccomp(gvisor))
	if err != nil {
		panic(err) // can't happen: the filter consists of strings and numbers
	}
	return string(text)
}

// resources returns the cgroup's limits and the rlimits.
func resources(l sandbox.Limits, facts engineFacts) container.Resources {
	memory, pids := l.MemoryBytes, int64(l.Processes+engine.GuestPids)
	if facts.gvisor() {
		// Under gVisor, a sandbox that reaches the memory or process limit of its cgroup is killed as a whole, and
		// gVisor's own memory and threads count too. The guest's watchdog enforces the true limits and must act first,
		// so the cgroup's limits are higher.
		memory = engine.GVisorMemory(l)
		pids += engine.GVisorPids
	}
	r := container.Resources{
		Memory:     memory,
		MemorySwap: memory, // limits memory and swap together, so the sandbox has no swap
		CPUShares:  512,    // half the weight of the host's own processes
		Ulimits: []*container.Ulimit{
			{Name: "core", Soft: 0, Hard: 0},
			// This limit also applies to the guest's own files in RunDir.
			ulimit("fsize", engine.FileSize(l)),
			ulimit("nofile", engine.MaxOpenFiles),
		},
	}
	if facts.CPULimit {
		r.NanoCPUs = int64(l.CPUs * 1e9)
	}
	if facts.PidsLimit {
		r.PidsLimit = &pids
	}
	return r
}

func ulimit(name string, n int64) *container.Ulimit {
	return &container.Ulimit{Name: name, Soft: n, Hard: n}
}

// tmpfs returns the mount options of the sandbox's tmpfs folders: those that can be written, and empty ones over the
// image's volumes. All files in them count as the sandbox's memory. /workspace and /tmp allow execution: an
// interpreter needs no exec bit, so noexec would break compiled libraries without stopping an attacker.
func tmpfs(spec engine.Spec, img imageFacts) map[string]string {
	const base = "rw,exec,nosuid,nodev"
	mounts := map[string]string{}
	for _, path := range img.Volumes {
		// A volume that the image declares would be a writable folder without a size limit on the engine's disk. This
		// mount covers it.
		mounts[path] = "ro,noexec,nosuid,nodev,size=4096,nr_inodes=2,mode=0555"
	}
	mounts[sandbox.Workspace] = fmt.Sprintf("%s,size=%d,nr_inodes=%d,uid=%d,gid=%d,mode=0700",
		base, spec.Limits.WorkspaceBytes, inodes(spec.Limits.WorkspaceBytes), spec.UID, spec.UID)
	tmp := spec.Limits.WorkspaceBytes / 2
	mounts["/tmp"] = fmt.Sprintf("%s,size=%d,nr_inodes=%d,mode=1777", base, tmp, inodes(tmp))
	mounts[engine.RunDir] = "rw,noexec,nosuid,nodev,size=" + strconv.Itoa(engine.RunDirBytes) + ",nr_inodes=16384,mode=0700"
	return mounts
}

// inodes returns how many inodes a tmpfs of a size in bytes may have: one for each 16 KiB, and at least 1,024. The
// machine kernel's memory for the inodes counts as the sandbox's memory.
func inodes(size int64) int64 { return max(size/(16<<10), 1024) }

// mapUID returns the uid for kernels on an engine. An engine that remaps uids has only 65,536 of them, and the image's
// users may have the lowest, so on such an engine mapUID maps uid into the range from 1,000 to 60,999.
func mapUID(uid int, facts engineFacts) int {
	const first, count = 1000, 60000
	if !facts.Remapped {
		return uid
	}
	return first + uid%count
}
