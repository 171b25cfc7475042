//go:build linux

// Package supervisor implements the guest, which is PID 1 in a sandbox. It starts and watches kernels, runs
// executions in them, stores their output, moves files, and serves the daemon over one unix socket. `guest serve`
// calls [Run]. The guest makes no policy: it gets its limits from the engine and its expiry from the daemon.
//
//   - Start: [Run] (supervisor.go), the HTTP routes (server.go, fileserver.go, status.go), the daemon's connections
//     (descriptors.go, package stdio)
//   - Kernels: process and pipes (kernel.go, pipes.go, utf8.go, message.go), command line and environment (program.go),
//     cause of death (death.go), Python's crash reports (crash.go)
//   - Executions: the queue of each kernel (lane.go), how an execution is stopped (stop.go), its record
//     (execution.go), events between two executions (interlude.go), and which executions are stored (registry.go)
//   - Limits: memory and files (watchdog.go, outofmemory.go, oomscore.go), time (deadman.go)
//
// Below it are three packages that do not import it: journal stores the events and the output of one execution,
// workspace reads and writes files, and process starts, lists, measures and kills processes.
//
// # Security model
//
// Code in a kernel is hostile. It has another uid and no capabilities, so it can't signal, trace or read the guest,
// or enter the folder of its socket. Everything that arrives through a kernel's pipes is parsed with limits
// (message.go, pipes.go), and all work on files is done with the rights of the kernels' user ([process.User.RunAs]).
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

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/supervisor/process"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/supervisor/workspace"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/stdio"
)

// Config is the guest's configuration. It comes from the flags of `guest serve`.
type Config struct {
	UID       int   // uid of the kernels' user, which is also its gid
	Memory    int64 // memory limit of the whole sandbox in bytes
	Processes int   // limit on the processes and threads of the kernels' user
	Workspace int64 // size of the workspace in bytes
	Expires   time.Time
	Language  sandbox.Language // language of the kernel that is started before the first execution
	Socket    string           // path of the unix socket; only the guest's user can enter its folder
	Stdio     bool             // also serve the daemon on stdin and stdout
	Bundle    string           // folder that contains the guest and the kernels' programs
}

func (c Config) validate() error {
	switch {
	case c.Memory <= 0 || c.Processes <= 0 || c.Workspace <= 0:
		return errors.New("--memory, --processes and --workspace must be above 0")
	case c.Expires.Unix() <= 0:
		return errors.New("--expires is missing")
	}
	return nil
}

// Supervisor is the guest's state. All its fields are safe for concurrent use.
type Supervisor struct {
	config     Config
	buildID    string
	program    string // the guest's own executable, for `guest launch`
	user       process.User
	reaper     *process.Reaper
	killer     *process.Killer
	registry   *registry
	workspace  *workspace.Workspace
	watchdog   *watchdog
	deadman    deadman
	lanes      map[sandbox.Language]*lane
	dropped    droppedCounter
	executions string // path of the folder for the output of executions
}

// Run starts the guest and serves until the sandbox must end. It returns an error if the guest can't start or serve,
// and nil after SIGTERM or when the sandbox has expired.
func Run(config Config) error {
	if err := config.validate(); err != nil {
		return err
	}
	if err := hide(); err != nil {
		return err
	}
	terminate := catchSignals()
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
		go func() { _ = server.Serve(own) }() // if this fails, the daemon can still use the socket
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
	// If the guest is PID 1, all processes of the sandbox end with it. In a shared process namespace they don't, so
	// KillAll kills the kernels' processes. It does not wait until they have ended.
	_ = s.user.KillAll()
	return err
}

func newSupervisor(config Config) (*Supervisor, error) {
	s := &Supervisor{config: config, program: filepath.Join(config.Bundle, "guest")}
	if id, err := os.ReadFile(filepath.Join(config.Bundle, "build-id")); err == nil {
		s.buildID = strings.TrimSpace(string(id))
	}
	var err error
	if s.user, err = process.NewUser(config.UID); err != nil {
		return nil, err
	}
	if s.workspace, err = workspace.Open(sandbox.Workspace, config.Workspace, s.user.RunAs); err != nil {
		return nil, err
	}
	s.executions = filepath.Join(filepath.Dir(config.Socket), "executions")
	if err := os.MkdirAll(s.executions, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder for output: %w", err)
	}
	s.reaper = process.NewReaper()
	s.killer = process.NewKiller(s.user, config.Processes, s.kernelSessions)
	s.registry = newRegistry(s.executions, config.Memory)
	s.deadman.set(config.Expires)
	s.watchdog = newWatchdog(s)
	s.lanes = map[sandbox.Language]*lane{}
	for lang := range programs {
		s.lanes[lang] = newLane(lang, s)
	}
	return s, nil
}

// kernelSessions returns the sessions of living kernels.
func (s *Supervisor) kernelSessions() map[int]bool {
	sessions := map[int]bool{}
	for _, l := range s.lanes {
		if k := l.live(); k != nil && !k.dead() {
			sessions[k.pid] = true
		}
	}
	return sessions
}

// hide makes the guest undumpable, so that other processes can't read its memory or trace it. Their uid already
// prevents that; this is a second barrier.
func hide() error {
	if _, _, e := syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_DUMPABLE, 0, 0); e != 0 {
		return fmt.Errorf("prctl PR_SET_DUMPABLE: %w", e)
	}
	return nil
}

// catchSignals returns a channel that receives SIGTERM, which only root in the sandbox can send. It leaves SIGCHLD to
// the reaper and discards the other signals. The discarded signals are caught instead of ignored, because kernels
// would inherit an ignored SIGINT and then could not be interrupted.
func catchSignals() (terminate <-chan os.Signal) {
	ignored := make(chan os.Signal, 1)
	for n := syscall.Signal(1); n <= 31; n++ {
		switch n {
		case syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGCHLD, syscall.SIGTERM,
			syscall.SIGURG, syscall.SIGPROF, // used by the Go runtime
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

// listen creates the socket in a folder that only the guest's user can enter.
func listen(path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the socket's folder: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("restrict the socket's folder: %w", err)
	}
	_ = os.Remove(path)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, fmt.Errorf("restrict the socket: %w", err)
	}
	return descriptorListener{l}, nil
}
