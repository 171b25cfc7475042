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

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// process identifies a process uniquely. A pid alone is not enough, because the kernel reuses pids.
type process struct {
	PID   int    `json:"pid"`
	Start string `json:"start"` // the start time of the process in clock ticks since the boot, from /proc/PID/stat
	Boot  string `json:"boot"`  // the boot id that the machine had when the process started
}

// processOf returns the process that has this pid now. It returns an error if no such process is running.
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

// runs reports whether the process is alive and belongs to an instance. It checks the command line, because a damaged
// record can name any process, even one of another sandbox. A process that is exiting has an empty command line. runs
// reports true for it, because the command line can't be checked.
func (p process) runs(in folder.Instance) bool {
	if !p.alive() {
		return false
	}
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
	return err == nil && (len(args) == 0 || isRunscOf(string(args), in.Bundle))
}

// statOf returns the start time of a process, and whether it is running. A zombie is not running.
func statOf(pid int) (start string, running bool) {
	if pid <= 0 {
		return "", false
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", false
	}
	// The second field, the name in parentheses, may itself contain spaces and parentheses, so cut after the last
	// closing parenthesis.
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

// processOfSandbox returns the recorded process of a sandbox, and whether it is alive. If the record is missing or
// damaged, it returns the zero process.
func (e *Engine) processOfSandbox(id sandbox.ID) (p process, alive bool) {
	if err := folder.ReadJSON(e.layout.Process(id), &p); err != nil {
		return process{}, false
	}
	return p, p.runs(e.layout.InstanceOf(id))
}

// startedProcess returns the process that runsc has just started for an instance.
func startedProcess(in folder.Instance) (process, error) {
	text, err := os.ReadFile(in.PIDFile())
	if err != nil {
		return process{}, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return process{}, fmt.Errorf("the sandbox's pid: %w", err)
	}
	p, err := processOf(pid)
	if err == nil && !p.runs(in) {
		err = fmt.Errorf("process %d does not belong to the sandbox", pid)
	}
	return p, err
}

// processesOf returns the pids of all processes of an instance, including those of an unfinished start: the processes
// in its cgroup, each runsc process with its bundle in the command line, and the process that is recorded in the file
// at the path record, if that file exists. The record is needed because a process that is exiting has left its cgroup
// and has no command line.
func (e *Engine) processesOf(in folder.Instance, record string) ([]int, error) {
	found := map[int]bool{}
	var p process
	if err := folder.ReadJSON(record, &p); err == nil && p.runs(in) {
		found[p.PID] = true
	}
	for _, pid := range e.cgroups.Processes(in.Name) {
		found[pid] = true
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		args, err := os.ReadFile("/proc/" + entry.Name() + "/cmdline")
		if err == nil && isRunscOf(string(args), in.Bundle) {
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

// isRunscOf reports whether cmdline, from /proc/PID/cmdline, is a command line of runsc with sandboxDir, the folder of
// a sandbox or a pooled sandbox, as its OCI bundle.
func isRunscOf(cmdline, sandboxDir string) bool {
	args := strings.Split(cmdline, "\x00")
	if !strings.HasPrefix(filepath.Base(args[0]), "runsc") {
		return false
	}
	for i, arg := range args {
		if arg == "--bundle="+sandboxDir || arg == sandboxDir && args[max(i-1, 0)] == "--bundle" {
			return true
		}
	}
	return false
}

// killTimeout limits how long kill waits for killed processes to end. A process that takes longer is assumed to be
// stuck in the machine's kernel.
const killTimeout = 20 * time.Second

// kill kills all processes of an instance, and returns when they have ended. record is the path of the file with the
// instance's process, or empty.
func (e *Engine) kill(ctx context.Context, in folder.Instance, record string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, killTimeout, errors.New("a process has not ended"))
	defer cancel()
	for {
		pids, err := e.processesOf(in, record)
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if p, err := os.FindProcess(pid); err == nil {
				_ = p.Kill() // on an error, either the process has ended or the next iteration finds it again
			}
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("end the processes of %s: %w", in.Name, context.Cause(ctx))
		}
	}
}
