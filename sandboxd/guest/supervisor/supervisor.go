//go:build linux

// Package supervisor is the guest: PID 1 in a sandbox. It starts and watches kernels,
// runs executions in them, keeps their output, moves files, and is reached through one
// unix socket.
//
//   - [Run]: the order of things at start (supervisor.go), the routes (server.go, fileserver.go), the daemon's streams (lent.go, package stdio)
//   - a kernel's process and pipes (kernel.go, pipes.go, message.go), its program (program.go), how it
//     died (death.go) and what it wrote then (crash.go), and the one place that waits for processes (reaper.go)
//   - executions: in line for a kernel (lane.go), how they are stopped (ladder.go), their
//     record (execution.go), what happens between two (interlude.go), and which are remembered (registry.go)
//   - output: events (journal.go, blob.go, tail.go, utf8.go), parts of it (window.go), live (follow.go)
//   - the workspace: files in and out (workspace.go), what an execution changed (changes.go)
//   - rights: acting as the kernels' user (identity.go)
//   - limits: memory (watchdog.go, memory.go), leftovers (procs.go, sweep.go), time (deadman.go)
//
// # Security model
//
// Code in a kernel is hostile. It has another uid and no capability, so it can't signal, trace or read
// the guest, nor enter the folder of its socket. All that comes through its pipes is parsed with
// limits (message.go, pipes.go), and all work on files is done with the kernels' rights (identity.go).
package supervisor

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/stdio"
)

// Config is what the guest is told when it is started.
type Config struct {
	UID       int   // of kernels; also their group
	Memory    int64 // bytes, of the whole sandbox
	Processes int   // of the kernels' user
	Workspace int64 // bytes
	Expires   time.Time
	Language  sandbox.Language // the kernel to start ahead
	Socket    string           // where to listen; its folder is the guest's own
	Stdio     bool             // listen on stdin and stdout, too, for the engine
	Bundle    string           // the folder of the guest and the kernels' programs
}

func (c Config) validate() error {
	switch {
	case c.UID <= 0 || c.UID == thirdUID:
		return fmt.Errorf("--uid must be above 0 and not %d: kernels must not be the guest's user", thirdUID)
	case c.Memory <= 0 || c.Processes <= 0 || c.Workspace <= 0:
		return errors.New("--memory, --processes and --workspace must be above 0")
	case c.Expires.Unix() <= 0:
		return errors.New("--expires is missing")
	}
	return nil
}

// Supervisor is the guest's state. Everything in it may be used concurrently.
type Supervisor struct {
	config     Config
	buildID    string
	program    string // the guest's own executable, for `guest launch`
	identity   identity
	reaper     *reaper
	registry   *registry
	workspace  *workspace
	watchdog   *watchdog
	deadman    deadman
	lanes      map[sandbox.Language]*lane
	dropped    droppedCounter
	executions string // folder of kept output
}

// Run is the guest's life. It returns an error if it could not begin, and nil when the sandbox
// is to end: at SIGTERM, or when its time is over.
func Run(config Config) error {
	if err := config.validate(); err != nil {
		return err
	}
	if err := hide(); err != nil {
		return err
	}
	terminate := takeSignals()
	s, err := newSupervisor(config)
	if err != nil {
		return err
	}
	listener, err := listen(config.Socket)
	if err != nil {
		return err
	}
	s.watchdog.watch()
	over := make(chan error, 1)
	server := s.server()
	go func() { over <- server.Serve(listener) }()
	if config.Stdio {
		own, err := stdio.Listen()
		if err != nil {
			return err
		}
		go func() { _ = server.Serve(own) }() // without it the daemon comes by the socket
	}
	go func() { s.deadman.watch(); over <- nil }()
	if l := s.lanes[config.Language]; l != nil {
		l.prepare <- nil
	}
	select {
	case <-terminate:
		err = nil
	case err = <-over:
	}
	// PID 1's end takes every process of the sandbox with it; where the guest is not
	// PID 1 (a shared process namespace), identity.killAll does. It does not wait for the processes to end.
	_ = s.identity.killAll()
	return err
}

func newSupervisor(config Config) (*Supervisor, error) {
	s := &Supervisor{config: config, program: filepath.Join(config.Bundle, "guest")}
	if id, err := os.ReadFile(filepath.Join(config.Bundle, "build-id")); err == nil {
		s.buildID = strings.TrimSpace(string(id))
	}
	var err error
	if s.identity, err = newIdentity(config.UID); err != nil {
		return nil, err
	}
	if s.workspace, err = openWorkspace(sandbox.Workspace, config.Workspace, s.identity); err != nil {
		return nil, err
	}
	s.executions = filepath.Join(filepath.Dir(config.Socket), "executions")
	if err := os.MkdirAll(s.executions, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder for output: %w", err)
	}
	s.reaper = newReaper()
	s.registry = newRegistry(s.executions, config.Memory)
	s.deadman.set(config.Expires)
	s.watchdog = newWatchdog(s)
	s.lanes = map[sandbox.Language]*lane{}
	for lang := range programs {
		s.lanes[lang] = newLane(lang, s)
	}
	return s, nil
}

// hide keeps others from reading this process's memory and from tracing it. Their uid keeps them
// from that already.
func hide() error {
	if _, _, e := syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_DUMPABLE, 0, 0); e != 0 {
		return fmt.Errorf("prctl PR_SET_DUMPABLE: %w", e)
	}
	return nil
}

// takeSignals makes the guest deaf to every signal but SIGTERM, which only root in the sandbox can
// send, and SIGCHLD, which is the reaper's. They are caught and thrown away rather than ignored, because
// kernels would inherit what is ignored, and then not see an interrupt.
func takeSignals() (terminate <-chan os.Signal) {
	ignored := make(chan os.Signal, 1)
	for n := syscall.Signal(1); n <= 31; n++ {
		switch n {
		case syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGCHLD, syscall.SIGTERM,
			syscall.SIGURG, syscall.SIGPROF, // the Go runtime's own
			syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGFPE:
		default:
			signal.Notify(ignored, n)
		}
	}
	go func() {
		for range ignored {
		}
	}()
	t := make(chan os.Signal, 1)
	signal.Notify(t, syscall.SIGTERM)
	return t
}

// listen makes the socket, in a folder that nobody else can enter.
func listen(path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the socket's folder: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("close the socket's folder: %w", err)
	}
	_ = os.Remove(path)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, fmt.Errorf("close the socket: %w", err)
	}
	return lentListener{l}, nil
}
