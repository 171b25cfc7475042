package gvisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
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

// runs reports whether the process is alive and belongs to an instance. It checks the command line, because a damaged record can
// name any process, even one of another sandbox. A process that is exiting has no command line, and counts as the instance's.
func (p process) runs(in instance) bool {
	if !p.alive() {
		return false
	}
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
	return err == nil && (len(args) == 0 || isRunscOf(string(args), in.bundle))
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

// processOfBox returns the recorded process of a sandbox, and whether it is alive. If the record is missing or damaged, it returns
// the zero process.
func (l layout) processOfBox(id sandbox.ID) (p process, alive bool) {
	if err := readJSON(l.process(id), &p); err != nil {
		return process{}, false
	}
	return p, p.runs(l.instanceOf(id))
}

// instance is what runs of a sandbox: its name is what runsc calls it, and its cgroup. It is the sandbox's own, or the
// spare that it has taken.
type instance struct {
	name   string
	bundle string // the folder that runsc was given
}

func (l layout) own(id sandbox.ID) instance { return instance{string(id), l.box(id)} }
func (l layout) spare(name string) instance { return instance{name, filepath.Join(l.spares(), name)} }

// instanceOf returns the instance of a sandbox: the spare that the file "spare" names, or the sandbox's own instance if the file is
// missing, damaged or another sandbox's.
func (l layout) instanceOf(id sandbox.ID) instance {
	if text, err := os.ReadFile(l.spareOf(id)); err == nil {
		if name, ok := parseSpare(text, id); ok {
			return l.spare(name)
		}
	}
	return l.own(id)
}

// spareName matches the names of spares.
var spareName = regexp.MustCompile(`^spare-[a-z2-7]{26}$`)

// isInstance reports whether name can be the name of an instance. No other name may become a part of a path, or be used to remove
// anything.
func isInstance(name string) bool { return sandbox.IsID(name) || spareName.MatchString(name) }

// spareFile returns the content of the file that names the spare that a sandbox runs in. It contains the sandbox's id too, so that
// the file is invalid in the folder of another sandbox.
func spareFile(name string, id sandbox.ID) []byte { return []byte(name + " " + string(id) + "\n") }

// parseSpare parses the content that spareFile returns, or that of older versions, which is the name alone.
func parseSpare(text []byte, id sandbox.ID) (name string, ok bool) {
	name, owner, named := strings.Cut(strings.TrimSuffix(string(text), "\n"), " ")
	return name, spareName.MatchString(name) && (!named || owner == string(id))
}

// pidFile is where runsc writes the pid.
func (in instance) pidFile() string { return filepath.Join(in.bundle, "pid") }

// started names the process that runsc has just started.
func (in instance) started() (process, error) {
	text, err := os.ReadFile(in.pidFile())
	if err != nil {
		return process{}, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return process{}, fmt.Errorf("the sandbox's pid: %w", err)
	}
	p, err := processOf(pid)
	if err == nil && !p.runs(in) {
		err = fmt.Errorf("process %d is not the sandbox's", pid)
	}
	return p, err
}

// processesOf finds all that runs of an instance, the half-started too: what is in its cgroup,
// each runsc that was given its folder, and the one that is on record in a file, if there is one: while it ends it is in no cgroup and
// has no command line any more.
func (e *Engine) processesOf(in instance, record string) ([]int, error) {
	found := map[int]bool{}
	var p process
	if err := readJSON(record, &p); err == nil && p.runs(in) {
		found[p.PID] = true
	}
	for _, pid := range e.cgroups.processes(in.name) {
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
		if err == nil && isRunscOf(string(args), in.bundle) {
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

// kill ends everything that runs of an instance, and returns when it has ended.
func (e *Engine) kill(ctx context.Context, in instance, record string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, killTimeout, errors.New("a process does not end"))
	defer cancel()
	for {
		pids, err := e.processesOf(in, record)
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
			return fmt.Errorf("end the processes of %s: %w", in.name, context.Cause(ctx))
		}
	}
}
