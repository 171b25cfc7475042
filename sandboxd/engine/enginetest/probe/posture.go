//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
)

// posture describes the sandbox's isolation, as this process sees it. It contains only values that do not depend on
// the machine or on the sandbox's id, so that it can be compared with a golden file.
type posture struct {
	UID      string            `json:"uid"`
	Status   map[string]string `json:"status"`   // lines of /proc/self/status
	Syscalls map[string]string `json:"syscalls"` // results of calls with invalid arguments
	Read     map[string]string `json:"read"`     // results of reading paths that must reveal nothing
	Write    map[string]string `json:"write"`    // results of creating a file in each folder
	Init     map[string]string `json:"init"`     // results of attempts to access PID 1
	Network  map[string]string `json:"network"`
	Devices  []string          `json:"devices"`
	Mounts   []string          `json:"mounts"`
	Sockets  []string          `json:"sockets"` // unix sockets in the file system
	Env      []string          `json:"env"`
	Limits   map[string]string `json:"limits"`
	Hostname string            `json:"hostname"`
}

func printPosture(w io.Writer) error {
	p := posture{
		UID:      role(),
		Status:   status(),
		Syscalls: trySyscalls(),
		Read:     tryAll(secrets, readable),
		Write:    tryAll(writeTargets, writable),
		Init:     tryInit(),
		Network:  network(),
		Devices:  devices(),
		Mounts:   mounts(),
		Sockets:  sockets(),
		Env:      environment(),
		Limits:   limits(),
	}
	p.Hostname, _ = os.Hostname()
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(p)
}

// environment returns the environment variables. It replaces the value of PATH, which depends on the image.
func environment() []string {
	env := os.Environ()
	for i, v := range env {
		if strings.HasPrefix(v, "PATH=") {
			env[i] = "PATH=(the image's)"
		}
	}
	slices.Sort(env)
	return env
}

// role returns the role of this process instead of its uid, which differs between sandboxes.
func role() string {
	if os.Getuid() == 0 {
		return "guest"
	}
	return "kernel"
}

func status() map[string]string {
	want := []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Groups"}
	found := map[string]string{}
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return map[string]string{"error": err.Error()}
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && slices.Contains(want, name) {
			found[name] = strings.TrimSpace(value)
		}
	}
	return found
}

func tryAll(names []string, try func(string) string) map[string]string {
	results := map[string]string{}
	for _, name := range names {
		results[name] = try(name)
	}
	return results
}

var secrets = []string{
	"/proc/cmdline", "/proc/config.gz", "/proc/interrupts", "/proc/kallsyms", "/proc/kcore", "/proc/keys",
	"/proc/kmsg", "/proc/modules", "/proc/sched_debug", "/proc/slabinfo", "/proc/timer_list", "/proc/version",
	"/proc/vmallocinfo", "/proc/sysrq-trigger", "/proc/acpi", "/proc/scsi",
	"/proc/partitions", "/proc/diskstats", "/proc/swaps", "/proc/sys/kernel/random/boot_id",
	"/sys/firmware", "/sys/module", "/sys/devices/virtual/dmi", "/sys/devices/virtual/powercap", "/sys/kernel/debug",
	"/sys/kernel/security", "/sys/kernel/tracing", "/etc/shadow", "/run/docker.sock", "/var/run/docker.sock",
	"/run/secrets", "/.dockerenv", engine.RunDir,
}

// readable returns "nothing" if a file or folder is missing or empty. Otherwise it returns "readable", "folder with
// content", or the error that prevents reading.
func readable(path string) string {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return "nothing" // some machine kernels lack the file
	}
	if err != nil {
		return errnoName(err)
	}
	defer file.Close()
	file.SetDeadline(time.Now().Add(time.Second)) // the error is ignored, because most kinds of files do not support deadlines
	if entries, err := file.ReadDir(-1); err == nil {
		if len(entries) == 0 {
			return "nothing"
		}
		return "folder with content"
	}
	n, err := file.Read(make([]byte, 64))
	switch {
	case n > 0:
		return "readable"
	case err == io.EOF:
		return "nothing"
	}
	return errnoName(err)
}

var writeTargets = []string{
	"/", "/bin", "/etc", "/home", "/lib", "/opt", engine.BundleDir, "/root", "/run", engine.RunDir, "/usr/local/bin",
	"/var/tmp", "/var/log", "/dev", "/dev/mqueue", "/dev/shm", "/tmp", "/workspace",
	"/proc", "/proc/sys/kernel", "/sys", "/sys/fs/cgroup", "/sys/fs/cgroup/memory",
}

func writable(dir string) string {
	name := filepath.Join(dir, ".posture")
	file, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return "no" // the error is left out because it depends on the machine's cgroups
	}
	defer os.Remove(name)
	defer file.Close()
	if _, err := file.Write([]byte("x")); err != nil {
		return "no"
	}
	return "writable"
}

// tryInit tries attacks on PID 1, the guest, as code in a kernel could, and returns the results.
func tryInit() map[string]string {
	open := func(name string, flag int) string {
		file, err := os.OpenFile(name, flag, 0)
		if err != nil {
			return errnoName(err)
		}
		file.Close()
		return "opened"
	}
	link := func(name string) string {
		_, err := os.Readlink(name)
		return errnoName(err)
	}
	dir := func(name string) string {
		_, err := os.ReadDir(name)
		return errnoName(err)
	}
	results := map[string]string{
		"open mem":      open("/proc/1/mem", os.O_RDWR),
		"open environ":  readable("/proc/1/environ"),
		"open maps":     open("/proc/1/maps", os.O_RDONLY),
		"write oom_adj": open("/proc/1/oom_score_adj", os.O_WRONLY),
		"list fd":       dir("/proc/1/fd"),
		"list root":     dir("/proc/1/root/"),
		"link exe":      link("/proc/1/exe"),
		"link cwd":      link("/proc/1/cwd"),
		"open guest":    open(filepath.Join(engine.BundleDir, "guest"), os.O_WRONLY),
		"setns":         open("/proc/1/ns/mnt", os.O_RDONLY),
	}
	conn, err := net.Dial("unix", socket)
	if err == nil {
		conn.Close()
	}
	results["connect socket"] = errnoName(err)
	if os.Getuid() != 0 { // signals are tried only as a kernel, because the guest itself may signal PID 1
		for _, sig := range []syscall.Signal{0, syscall.SIGTERM, syscall.SIGSTOP, syscall.SIGKILL} {
			results[fmt.Sprintf("kill with signal %d", sig)] = errnoName(syscall.Kill(1, sig))
		}
	}
	return results
}

func network() map[string]string {
	results := map[string]string{}
	interfaces, _ := os.ReadDir("/sys/class/net") // without sysfs there are no interfaces to list
	names := []string{}
	for _, i := range interfaces {
		names = append(names, i.Name())
	}
	results["interfaces in sysfs"] = strings.Join(names, " ")
	text, _ := os.ReadFile("/proc/net/dev")
	names = nil
	for line := range strings.Lines(string(text)) {
		if name, _, ok := strings.Cut(line, ":"); ok {
			names = append(names, strings.TrimSpace(name))
		}
	}
	results["interfaces in proc"] = strings.Join(names, " ")
	for _, address := range []string{"192.0.2.1:80", "169.254.169.254:80", "172.17.0.1:2375", "[2001:db8::1]:80"} {
		conn, err := net.DialTimeout("tcp", address, 2*time.Second)
		if err == nil {
			conn.Close()
		}
		results["tcp "+address] = dialResult(err)
	}
	conn, err := net.Dial("udp", "192.0.2.1:53")
	if err == nil {
		conn.Close()
	}
	results["udp 192.0.2.1:53"] = dialResult(err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err == nil {
		listener.Close()
	}
	results["listen on 127.0.0.1"] = errnoName(err)
	return results
}

// dialResult returns the same text for all errors that an unreachable address can cause, because the machine's IPv6
// configuration determines which of these errors occurs.
func dialResult(err error) string {
	for _, out := range []error{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EADDRNOTAVAIL, unix.EAFNOSUPPORT} {
		if errors.Is(err, out) {
			return "out of reach"
		}
	}
	return errnoName(err)
}

func devices() []string {
	var names []string
	entries, err := os.ReadDir("/dev")
	if err != nil {
		return []string{err.Error()}
	}
	for _, e := range entries {
		names = append(names, e.Type().String()+" "+e.Name())
	}
	return names
}

// mounts returns the mounts of this process, without parts that depend on the machine: cgroups, masks of paths that
// not every machine kernel has, and sizes.
func mounts() []string {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	var list []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		sep := slices.Index(fields, "-")
		if sep < 6 || sep+1 >= len(fields) {
			list = append(list, "unreadable: "+line)
			continue
		}
		point, kind := fields[4], fields[sep+1]
		if strings.HasPrefix(point, "/sys/") || strings.HasPrefix(point, "/proc/") {
			continue
		}
		var flags []string
		for flag := range strings.SplitSeq(fields[5], ",") {
			if slices.Contains([]string{"ro", "rw", "nosuid", "nodev", "noexec"}, flag) {
				flags = append(flags, flag)
			}
		}
		if strings.HasPrefix(kind, "ext") || kind == "xfs" || kind == "btrfs" {
			kind = "a disk"
		}
		list = append(list, fmt.Sprintf("%s %s %s", point, kind, strings.Join(flags, ",")))
	}
	slices.Sort(list)
	return list
}

func sockets() []string {
	list := []string{}
	filepath.WalkDir("/", func(path string, entry fs.DirEntry, err error) error {
		if path == "/proc" || path == "/sys" {
			return fs.SkipDir
		}
		if err == nil && entry.Type()&fs.ModeSocket != 0 {
			list = append(list, path)
		}
		return nil
	})
	return list
}

func limits() map[string]string {
	results := map[string]string{}
	for name, resource := range map[string]int{"core": unix.RLIMIT_CORE, "nofile": unix.RLIMIT_NOFILE, "fsize": unix.RLIMIT_FSIZE} {
		var l unix.Rlimit
		if err := unix.Getrlimit(resource, &l); err != nil {
			results[name] = errnoName(err)
			continue
		}
		results[name] = fmt.Sprintf("%d at most %d", l.Cur, l.Max)
	}
	for _, dir := range []string{"/workspace", "/tmp", "/dev/shm", engine.RunDir} {
		var s unix.Statfs_t
		if err := unix.Statfs(dir, &s); err != nil {
			results[dir] = errnoName(err)
			continue
		}
		results[dir] = fmt.Sprintf("%d MiB", s.Blocks*uint64(s.Bsize)>>20)
		if s.Files < 100_000 { // a greater number is no limit of the sandbox, but depends on the machine's memory
			results[dir] += fmt.Sprintf(", %d inodes", s.Files)
		}
	}
	return results
}

// errnoName returns "ok" if err is nil, the name of the error's errno, or the error's text if it has no errno.
func errnoName(err error) string {
	if err == nil {
		return "ok"
	}
	if errno, is := errors.AsType[syscall.Errno](err); is {
		if name := unix.ErrnoName(errno); name != "" {
			return name
		}
		return errno.Error()
	}
	return string(bytes.TrimSpace([]byte(err.Error())))
}
