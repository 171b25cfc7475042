package gvisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// process names a process for ever: a pid alone may be another's by tomorrow.
type process struct {
	PID   int    `json:"pid"`
	Start string `json:"start"` // in ticks since the boot, as /proc has it
	Boot  string `json:"boot"`  // which one
}

// processOf names the process that has a pid now.
func processOf(pid int) (process, error) {
	start, running := statOf(pid)
	if !running {
		return process{}, fmt.Errorf("process %d has ended", pid)
	}
	return process{pid, start, bootID()}, nil
}

func (p process) alive() bool {
	start, running := statOf(p.PID)
	return running && start == p.Start && p.Boot == bootID()
}

// statOf reads when a process started, and whether it runs: a zombie does not.
func statOf(pid int) (start string, running bool) {
	if pid <= 0 {
		return "", false
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", false
	}
	// The second field, the name, may hold spaces and brackets of its own.
	_, rest, ok := strings.Cut(string(text[max(bytes.LastIndexByte(text, ')'), 0):]), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return "", false
	}
	return fields[19], fields[0] != "Z" && fields[0] != "X"
}

func bootID() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(text))
}

// processOfBox returns the sandbox's process as it was recorded, and whether it lives.
func (l layout) processOfBox(id sandbox.ID) (p process, alive bool) {
	if err := readJSON(l.process(id), &p); err != nil {
		return p, false
	}
	return p, p.alive()
}

// pidFile is where runsc writes the sandbox's pid.
func (l layout) pidFile(id sandbox.ID) string { return filepath.Join(l.box(id), "pid") }

// recordProcess notes the process that runsc has just started.
func (l layout) recordProcess(id sandbox.ID) error {
	text, err := os.ReadFile(l.pidFile(id))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("the sandbox's pid: %w", err)
	}
	p, err := processOf(pid)
	if err != nil {
		return err
	}
	return writeJSON(l.process(id), p)
}

// processesOf finds all that runs for a sandbox, the half-started too: what is in its cgroup,
// each runsc that was given its folder, and the one that was recorded, which is in no cgroup and has no
// command line any more while it ends.
func (e *Engine) processesOf(id sandbox.ID) ([]int, error) {
	found := map[int]bool{}
	if p, alive := e.layout.processOfBox(id); alive {
		found[p.PID] = true
	}
	for _, pid := range e.cgroups.processes(id) {
		found[pid] = true
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	box := e.layout.box(id)
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		args, err := os.ReadFile("/proc/" + entry.Name() + "/cmdline")
		if err == nil && isRunscOf(string(args), box) {
			found[pid] = true
		}
	}
	var list []int
	for pid := range found {
		if _, running := statOf(pid); running {
			list = append(list, pid)
		}
	}
	return list, nil
}

// isRunscOf reports whether a command line is a runsc's that works on the bundle box.
func isRunscOf(cmdline, box string) bool {
	args := strings.Split(cmdline, "\x00")
	if !strings.HasPrefix(filepath.Base(args[0]), "runsc") {
		return false
	}
	for i, arg := range args {
		if arg == "--bundle="+box || arg == box && args[max(i-1, 0)] == "--bundle" {
			return true
		}
	}
	return false
}

// killTimeout is when a process that was killed is taken to be stuck in the kernel.
const killTimeout = 20 * time.Second

// kill ends everything that runs for a sandbox, and returns when it has ended.
func (e *Engine) kill(ctx context.Context, id sandbox.ID) error {
	ctx, cancel := context.WithTimeoutCause(ctx, killTimeout, errors.New("a process does not end"))
	defer cancel()
	for {
		pids, err := e.processesOf(id)
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if p, err := os.FindProcess(pid); err == nil {
				_ = p.Kill() // it ended meanwhile, or is looked for again
			}
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("end the processes of %s: %w", id, context.Cause(ctx))
		}
	}
}
