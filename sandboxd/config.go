package sandboxd

import (
	"cmp"
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

// Config configures a daemon: the user's settings, and the values that the program itself sets.
type Config struct {
	Settings

	Version string // the version of this program; zero: dev

	// MaxSandboxesPerOwner is the maximum number of sandboxes, running or suspended, of an owner who is not the operator.
	// Zero: half of MaxSandboxes, at least 1.
	MaxSandboxesPerOwner int

	// OnExecution is called with each execution when it has begun, and again when it is final. It must not block.
	OnExecution func(sandbox.Execution)

	// OnDemand is true if a client started this daemon. Clients may replace the daemon while its engine cannot be opened.
	OnDemand bool

	Logger *slog.Logger // the daemon's log; zero: stderr, at LogLevel

	// openEngine replaces openDaemonEngine in tests. It is nil otherwise.
	openEngine func(ctx context.Context, c *Config, homeID string) (engine.Engine, error)
}

// validate sets the defaults of fields that are zero, and checks the settings whose type allows invalid values.
func (c *Config) validate() error {
	c.setHome()
	c.Version = cmp.Or(c.Version, "dev")
	c.Engine = cmp.Or(c.Engine, autoEngine)
	c.TTL = cmp.Or(c.TTL, sandbox.Duration(sandbox.DefaultTTL))
	c.MaxSandboxes = cmp.Or(c.MaxSandboxes, sandbox.DefaultMaxSandboxes)
	c.MaxSandboxesPerOwner = cmp.Or(c.MaxSandboxesPerOwner, max(1, c.MaxSandboxes/2))
	if c.Logger == nil {
		c.Logger = NewLogger(os.Stderr, c.LogLevel)
	}
	if c.MaxSandboxes < 0 || c.MaxSandboxesPerOwner < 0 || c.MaxMemory < 0 || c.MaxDisk < 0 || c.IdleSuspend < 0 || c.CheckpointEvery < 0 {
		return errors.New("a maximum number of sandboxes, a maximum size, --idle-suspend and --checkpoint-every must not be negative")
	}
	if err := sandbox.ValidateTTL(time.Duration(c.TTL)); err != nil {
		return fmt.Errorf("default %w", err)
	}
	return nil
}

// setHome sets c.Home to its default if it is empty, and makes it canonical.
func (c *Config) setHome() { c.Home = home.Canonical(cmp.Or(c.Home, home.Default())) }
