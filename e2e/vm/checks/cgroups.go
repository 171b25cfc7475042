package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// machine checks that the virtual machine has systemd and cgroup v2, and that doctor reports cgroups correctly.
func machine(ctx context.Context) {
	check("systemd runs, and only cgroup v2 is mounted", func() error {
		var fs syscall.Statfs_t
		if err := syscall.Statfs("/sys/fs/cgroup", &fs); err != nil || fs.Type != 0x63677270 {
			return fmt.Errorf("/sys/fs/cgroup has the file system type %x (%v), want cgroup v2", fs.Type, err)
		}
		_, err := os.Stat("/run/systemd/system")
		return err
	})
	check("dormouse doctor reports that the gvisor engine works with cgroup v2", func() error {
		out, err := command(ctx, binary, "doctor", "--engine", "gvisor")
		if err == nil && !strings.Contains(out, "version 2") {
			err = errors.New(out)
		}
		return err
	})
	check("dormouse doctor reports a root cgroup that contains processes, as in a container", func() error {
		out, err := command(ctx, "systemd-run", "--quiet", "--wait", "--pipe", "--property=Delegate=yes", "--setenv=XDG_CACHE_HOME=/var/cache", "unshare", "--cgroup", "--mount", "sh", "-c",
			"umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup && "+binary+" doctor --engine gvisor --home /root/contained")
		if err == nil || !strings.Contains(out, "the processes of this container are in the cgroup that is its root") {
			return fmt.Errorf("doctor: %v, output %s", err, out)
		}
		return nil
	})
}

// engineTests runs those tests of the gvisor engine's package that depend on cgroups.
func engineTests(ctx context.Context) {
	for _, test := range []string{"TestOutOfMemoryIsNamed", "TestSandboxesOutliveTheDaemon", "TestRemoveLeavesNothing"} {
		check("the engine's test "+test, func() error {
			_, err := command(ctx, "/root/built/gvisor.test", "-test.run", "^"+test+"$", "-test.v")
			return err
		})
	}
}

// limits checks the limits of a sandbox by running code that tries to exceed the limits.
func limits(ctx context.Context) {
	var s session
	var id string
	check("the packaged service starts and runs code in both languages", func() (err error) {
		if _, err = command(ctx, "systemctl", "enable", "--now", service); err != nil {
			return err
		}
		if s, err = connect(ctx); err != nil {
			return err
		}
		if id, err = s.create(args{"memory_mb": 512, "cpus": 1}); err != nil {
			return err
		}
		return s.both(id, "x = 42; x", "42", "var y = 7; y", "7")
	})
	if id == "" {
		return
	}
	want := map[string]string{"cpu.max": "100000 100000", "memory.swap.max": "0", "memory.max": "", "pids.max": ""}
	wantLimits := func() error {
		for name, is := range want {
			text, err := os.ReadFile(filepath.Join(cgroupOf(id), name))
			if err != nil {
				return err
			}
			got := strings.TrimSpace(string(text))
			if got == "max" || is != "" && got != is {
				return fmt.Errorf("%s is %q, want %q", name, got, is)
			}
			want[name] = got
		}
		procs, err := os.ReadFile(filepath.Join(cgroupOf(id), "cgroup.procs"))
		if err == nil && strings.Count(string(procs), "\n") < 2 {
			err = fmt.Errorf("the processes in its cgroup are %q, want the sandbox and the gofer", procs)
		}
		return err
	}
	check("the sandbox's cgroup limits memory, swap, processes and CPU", wantLimits)
	check("the limits stay when systemd reloads and other units start and stop", func() error {
		if _, err := command(ctx, "systemctl", "daemon-reload"); err != nil {
			return err
		}
		if _, err := command(ctx, "systemd-run", "--wait", "-p", "CPUQuota=50%", "-p", "MemoryMax=1G", "-p", "TasksMax=9", "true"); err != nil {
			return err
		}
		return wantLimits()
	})
	check("a sandbox with one CPU gets one of two CPUs for two busy kernels", func() error {
		before, began := cpuStat(id), time.Now()
		if _, err := s.run(id, "python", "import os, time\nend = time.time() + 10\npid = os.fork()\nwhile time.time() < end: pass\nif not pid: os._exit(0)\nos.waitpid(pid, 0)[1]"); err != nil {
			return err
		}
		after, took := cpuStat(id), time.Since(began)
		share := float64(after["usage_usec"]-before["usage_usec"]) / float64(took.Microseconds())
		if after["nr_throttled"] == before["nr_throttled"] || share > 1.1 {
			return fmt.Errorf("the sandbox used %.2f CPUs and was throttled %d times, want about one CPU", share, after["nr_throttled"]-before["nr_throttled"])
		}
		return nil
	})
	check("a kernel above the memory limit is killed and named; the other keeps its variables", func() error {
		r, err := s.Call(ctx, "execute_code", args{"sandbox_id": id, "code": "hog = []\nwhile True: hog.append(bytearray(1 << 24))", "wait_seconds": 300})
		if err != nil {
			return err
		}
		if !strings.Contains(r.Text, "MemoryError") && !strings.Contains(r.Text, "memory") {
			return errors.New(r.Text)
		}
		text, err := s.run(id, "javascript", "y", "7")
		if err == nil && epochOf(text) != "1" {
			err = errors.New(text)
		}
		return err
	})
	check("the sandbox survives a fork bomb", func() error {
		// The bomb starts sleep, a small program. Many Python processes could reach the memory limit before the process limit.
		const bomb = "import os\ntry:\n    while True: os.posix_spawn('/usr/bin/sleep', ['sleep', '600'], {})\nexcept BlockingIOError: print('no more')"
		if _, err := s.run(id, "python", bomb, "no more"); err != nil {
			return err
		}
		_, err := s.run(id, "javascript", "y", "7")
		return err
	})
	check("the machine's OOM killer has killed nothing, because the guest acted first", func() error {
		if n := numbers(filepath.Join(cgroupOf(id), "memory.events"))["oom_kill"]; n != 0 {
			return fmt.Errorf("oom_kill is %d, want 0", n)
		}
		return nil
	})
	check("a deleted sandbox leaves nothing behind", func() error {
		if _, err := s.Must(ctx, "delete_sandbox", args{"sandbox_id": id}); err != nil {
			return err
		}
		s.Close()
		return nothingLeft(home, id)
	})
}

func cpuStat(id string) map[string]int64 { return numbers(filepath.Join(cgroupOf(id), "cpu.stat")) }

// numbers reads a file with a name and a number on each line. It returns an empty map if the file can't be read.
func numbers(file string) map[string]int64 {
	list := map[string]int64{}
	f, err := os.Open(file)
	if err != nil {
		return list
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, text, _ := strings.Cut(lines.Text(), " ")
		list[name], _ = strconv.ParseInt(text, 10, 64)
	}
	return list
}
