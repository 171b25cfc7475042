package sandboxd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/home"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Config configures a daemon. The zero value of a field means its default.
type Config struct {
	Home    string // the state directory; zero: home.Default()
	Version string // the version of this program

	Engine       string   // auto, docker or gvisor; zero: auto
	Runtime      string   // the engine's container runtime; empty or auto: the best one that the engine has
	DefaultImage string   // the image of sandboxes whose request names none
	AllowImages  []string // further images that requests may name; "*" allows every image
	// WithoutCgroups allows the gvisor engine to run sandboxes even if it cannot limit them with cgroups.
	WithoutCgroups bool
	// NoDirectExec makes the docker engine connect to guests only through the Docker engine's exec, never directly through
	// the container's runtime.
	NoDirectExec bool

	Limits       sandbox.Limits // the default limits of a sandbox; zero: sandbox.DefaultLimits
	DefaultTTL   time.Duration  // zero: sandbox.DefaultTTL
	MaxSandboxes int            // the maximum number of running sandboxes; zero: 100
	// MaxSandboxesPerOwner is the maximum number of sandboxes, running or suspended, of an owner who is not the operator.
	// Zero: half of MaxSandboxes, at least 1.
	MaxSandboxesPerOwner int

	// MaxMemory is the maximum sum of the memory limits of the running sandboxes, in bytes; zero: the manager's default.
	MaxMemory   int64
	IdleSuspend time.Duration // how long a sandbox may be idle before it is suspended; zero: it is never suspended
	// CheckpointEvery is how long a running sandbox may be idle before it is checkpointed; zero: never.
	CheckpointEvery time.Duration
	MaxDisk         int64 // the maximum size of all checkpoints together, in bytes; zero: no limit

	// OnExecution is called with each execution when it has begun, and again when it is final. It must not block.
	OnExecution func(sandbox.Execution)

	// OnDemand is true if a client started this daemon. Clients may replace the daemon while its engine cannot be opened.
	OnDemand bool

	LogLevel string       // debug, info, warn or error; zero: info
	Logger   *slog.Logger // the daemon's log; zero: stderr, at LogLevel

	// openEngine replaces openDaemonEngine in tests. It is nil otherwise.
	openEngine func(ctx context.Context, c *Config, homeID string) (engine.Engine, error)
}

// defaultMaxSandboxes is the default of Config.MaxSandboxes.
const defaultMaxSandboxes = 100

func (c *Config) validate() error {
	c.setHome()
	if c.Version == "" {
		c.Version = "dev"
	}
	switch c.Engine {
	case "":
		c.Engine = autoEngine
	case autoEngine, dockerEngine, gvisorEngine:
	default:
		return sandbox.Errorf(sandbox.Invalid, "engine %q is not known: use auto, docker or gvisor", sandbox.Quote(c.Engine))
	}
	if err := c.validateLimits(); err != nil {
		return err
	}
	if _, err := parseLevel(c.LogLevel); err != nil {
		return err
	}
	if c.Logger == nil {
		c.Logger = NewLogger(os.Stderr, c.LogLevel)
	}
	return nil
}

// setHome sets c.Home to its default if it is empty, and makes it canonical.
func (c *Config) setHome() {
	if c.Home == "" {
		c.Home = home.Default()
	}
	c.Home = home.Canonical(c.Home)
}

func (c *Config) validateLimits() error {
	defaults := sandbox.DefaultLimits()
	l := &c.Limits
	if l.MemoryBytes == 0 {
		l.MemoryBytes = defaults.MemoryBytes
	}
	if l.CPUs == 0 {
		l.CPUs = defaults.CPUs
	}
	if l.Processes == 0 {
		l.Processes = defaults.Processes
	}
	if l.WorkspaceBytes == 0 {
		l.WorkspaceBytes = min(defaults.WorkspaceBytes, l.MemoryBytes/2)
	}
	if c.DefaultTTL == 0 {
		c.DefaultTTL = sandbox.DefaultTTL
	}
	if c.MaxSandboxes == 0 {
		c.MaxSandboxes = defaultMaxSandboxes
	}
	if c.MaxSandboxesPerOwner == 0 {
		c.MaxSandboxesPerOwner = max(1, c.MaxSandboxes/2)
	}
	switch {
	case l.MemoryBytes < sandbox.MinMemoryMB*sandbox.MiB || l.MemoryBytes > sandbox.MaxMemoryMB*sandbox.MiB:
		return sandbox.Errorf(sandbox.Invalid, "a sandbox's memory of %d MB is out of range: use %d to %d", l.MemoryBytes/sandbox.MiB, sandbox.MinMemoryMB, sandbox.MaxMemoryMB)
	case !(l.CPUs >= sandbox.MinCPUs && l.CPUs <= sandbox.MaxCPUs):
		return sandbox.Errorf(sandbox.Invalid, "a sandbox's %g CPUs are out of range: use %g to %g", l.CPUs, sandbox.MinCPUs, sandbox.MaxCPUs)
	case l.Processes < 16:
		return sandbox.Errorf(sandbox.Invalid, "%d processes are too few for a sandbox: use 16 or more", l.Processes)
	case l.WorkspaceBytes < sandbox.MiB || l.WorkspaceBytes > l.MemoryBytes:
		return sandbox.Errorf(sandbox.Invalid, "a workspace of %d MB is out of range: it is part of the sandbox's memory, %d MB", l.WorkspaceBytes/sandbox.MiB, l.MemoryBytes/sandbox.MiB)
	case c.MaxSandboxes < 0 || c.MaxSandboxesPerOwner < 0 || c.MaxMemory < 0 || c.MaxDisk < 0 || c.IdleSuspend < 0 || c.CheckpointEvery < 0:
		return errors.New("the most sandboxes, their memory and disk, and the times before they are suspended and saved must not be negative")
	}
	if err := sandbox.ValidateTTL(c.DefaultTTL); err != nil {
		return fmt.Errorf("default %w", err)
	}
	return nil
}
