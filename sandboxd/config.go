package sandboxd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Config is what can be chosen of a daemon. Zero values mean the default.
type Config struct {
	Home    string // zero: DefaultHome
	Version string // of this program

	Engine       string   // auto, docker, gvisor
	Runtime      string   // of the engine; empty or auto: the best it has
	DefaultImage string   // of sandboxes that ask for none
	AllowImages  []string // other images that may be asked for; "*" is any
	// WithoutCgroups lets the gvisor engine run sandboxes that no cgroup limits.
	WithoutCgroups bool
	// NoDirectExec connects the docker engine to guests only through the engine's exec, never through the container's runtime.
	NoDirectExec bool

	Limits       sandbox.Limits // of a sandbox; zero: sandbox.DefaultLimits
	DefaultTTL   time.Duration  // zero: sandbox.DefaultTTL
	MaxSandboxes int            // at once; zero: 100
	// MaxSandboxesPerOwner bounds the sandboxes of an owner who is not the operator, running or suspended; zero: half of MaxSandboxes.
	MaxSandboxesPerOwner int

	MaxMemory   int64         // of all sandboxes together; zero: the manager's choice
	IdleSuspend time.Duration // after which a sandbox is suspended; zero: never
	// CheckpointEvery is how long a sandbox that runs may be idle before its state is saved; zero: never.
	CheckpointEvery time.Duration
	MaxDisk         int64 // of all saved states together, in bytes; zero: no limit

	// OnExecution is told of each execution when it has begun, and once more when it is final. It must not wait.
	OnExecution func(sandbox.Execution)

	// OnDemand is set if a client started this daemon. Clients may replace it while its engine cannot be opened.
	OnDemand bool

	LogLevel string       // debug, info, warn, error
	Logger   *slog.Logger // zero: stderr, at LogLevel

	openEngine func(ctx context.Context, c *Config, homeID string) (engine.Engine, error) // tests have another
}

// defaultMaxSandboxes is for a [Config] that does not say.
const defaultMaxSandboxes = 100

func (c *Config) validate() error {
	if c.Home == "" {
		c.Home = DefaultHome()
	}
	c.Home = canonical(c.Home)
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
