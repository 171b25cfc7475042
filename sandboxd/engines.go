package sandboxd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/durable"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/docker"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/bundle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/home"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// The values of Settings.Engine. [autoEngine] means docker if a Docker engine answers, and gvisor otherwise.
const (
	autoEngine   = "auto"
	dockerEngine = "docker"
	gvisorEngine = "gvisor"
)

// LocalEngine is an engine for commands that manage images or check the engine without a daemon.
type LocalEngine interface {
	engine.Engine
	HasImage(ctx context.Context, ref string) (bool, error)
	ImportImage(ctx context.Context, root io.Reader, ref string, changes ...string) error
	BuildImage(ctx context.Context, buildContext io.Reader, ref string, log io.Writer) error
	// Doctor returns the results of checks of the engine and the machine. ref is the image that sandboxes use.
	Doctor(ctx context.Context, ref string) []engine.Check
}

// OpenEngine opens the engine that a daemon with this configuration would use, but without access to the daemon's
// sandboxes. The caller must close it.
func OpenEngine(ctx context.Context, c Config) (LocalEngine, error) {
	c.setHome()
	return open(ctx, &c, "command", nil)
}

// LoadImage imports the image at path into the gvisor engine of the home dir, and returns the image's name. For a
// Docker engine, users run `docker load` instead.
func LoadImage(ctx context.Context, dir, path, name string) (string, error) {
	e, err := gvisor.New(ctx, gvisor.Config{Dir: filepath.Join(home.Canonical(dir), home.GvisorName), WithoutCgroups: true}) // importing an image needs no cgroups
	if err != nil {
		return "", err
	}
	ref, err := e.LoadImage(ctx, path, name)
	return ref, errors.Join(err, e.Close())
}

// newEngine returns the engine that c configures. The engine is opened when it is first needed.
func newEngine(c *Config, homeID string, s *store.Store) *lazyEngine {
	name := dockerEngine
	if c.Engine == gvisorEngine {
		name = gvisorEngine
	}
	return newLazyEngine(name, func(ctx context.Context) (engine.Engine, error) {
		if c.openEngine != nil {
			return c.openEngine(ctx, c, homeID)
		}
		return openDaemonEngine(ctx, c, homeID, s)
	}, c.Logger)
}

// openDaemonEngine opens the daemon's engine and records its name. If the home has sandboxes, openDaemonEngine opens only
// the engine that runs them: if it opened an engine of another kind, for example because the first engine is still starting,
// the daemon would consider the sandboxes lost. The name of the engine is recorded before the first sandbox is recorded, so
// a home without a recorded engine has no sandboxes on any engine. With auto, openDaemonEngine also keeps the recorded engine
// while containers of terminated sandboxes may still exist on it.
func openDaemonEngine(ctx context.Context, c *Config, homeID string, s *store.Store) (engine.Engine, error) {
	choice, file := *c, filepath.Join(c.Home, home.EngineName)
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	last := strings.TrimSpace(string(text))
	if last != dockerEngine && last != gvisorEngine {
		last = "" // the file is missing or damaged
	}
	contents, err := countContents(ctx, s, last)
	if err != nil {
		return nil, err
	}
	switch {
	case contents.sandboxes > 0 && choice.Engine != autoEngine && choice.Engine != last:
		return nil, sandbox.Errorf(sandbox.Unavailable,
			"this home has %d sandboxes on the %s engine, which the %s engine cannot reach: use --engine %s, delete the sandboxes first, or choose another DORMOUSE_HOME",
			contents.sandboxes, last, choice.Engine, last)
	case contents.nonEmpty() && choice.Engine == autoEngine:
		choice.Engine = last
	}
	e, err := open(ctx, &choice, homeID, bundle.Bundle{})
	if err != nil && contents.nonEmpty() && c.Engine == autoEngine {
		return nil, sandbox.Errorf(sandbox.Unavailable, "this home's sandboxes are on the %s engine: %s", last, sandbox.Public(err).Message).WithCause(err)
	}
	if err != nil {
		return nil, err
	}
	if name := e.Info().Name; name != last {
		if err := durable.WriteFile(file, []byte(name+"\n"), 0o600); err != nil {
			return nil, errors.Join(fmt.Errorf("record the engine: %w", err), e.Close())
		}
	}
	return e, nil
}

// engineContents counts the sandboxes and containers that a home has on the engine that it last used.
type engineContents struct {
	sandboxes int // sandboxes that are not terminated
	leftovers int // containers of terminated sandboxes that may still exist
}

func (h engineContents) nonEmpty() bool { return h.sandboxes+h.leftovers > 0 }

// countContents counts the sandboxes and containers that a home has on the engine that it last used. The parameter last
// is the name of that engine. If last is empty, countContents returns the zero value.
func countContents(ctx context.Context, s *store.Store, last string) (h engineContents, err error) {
	if last == "" {
		return h, nil
	}
	present, err := s.Present(ctx)
	for _, rec := range present {
		switch {
		case rec.State != sandbox.Terminated:
			h.sandboxes++
		case time.Now().Before(rec.ExpireTime.Add(containerEndDelay)):
			h.leftovers++
		}
	}
	return h, err
}

// containerEndDelay is the time after a sandbox's expiry by which its container has certainly ended: the guest ends the
// container of an expired sandbox even if no daemon runs.
const containerEndDelay = time.Hour

// open opens the engine that c.Engine names. For auto, it opens the first engine that works.
func open(ctx context.Context, c *Config, homeID string, guest engine.Bundle) (LocalEngine, error) {
	switch c.Engine {
	case dockerEngine:
		return openDocker(ctx, c, homeID, guest)
	case gvisorEngine:
		return openGvisor(ctx, c, guest, "selected with --engine gvisor")
	case autoEngine:
	default:
		return nil, sandbox.Errorf(sandbox.Invalid, "engine %q is not known: use auto, docker or gvisor", sandbox.Quote(c.Engine))
	}
	d, err := openDocker(ctx, c, homeID, guest)
	if err == nil {
		return d, nil
	}
	// With DOCKER_HOST, or a runtime that only Docker has, the user has chosen the docker engine, so gvisor is not tried.
	if os.Getenv("DOCKER_HOST") != "" || c.Runtime != "" && c.Runtime != "auto" && c.Runtime != "runsc" {
		return nil, err
	}
	g, gvisorErr := openGvisor(ctx, c, guest, "no Docker engine answers")
	if gvisorErr == nil {
		return g, nil
	}
	return nil, sandbox.Errorf(sandbox.Unavailable, "%s. Without Docker: %s", strings.TrimRight(sandbox.Public(err).Message, "."), sandbox.Public(gvisorErr).Message).
		WithCause(errors.Join(err, gvisorErr))
}

func openDocker(ctx context.Context, c *Config, homeID string, guest engine.Bundle) (LocalEngine, error) {
	e, err := docker.New(ctx, docker.Config{Home: homeID, Bundle: guest, Runtime: c.Runtime, NoDirectExec: !c.DockerDirectExec})
	if err != nil {
		return nil, err // the result must be a literal nil, because an interface that holds a nil *docker.Engine is not nil
	}
	return e, nil
}

func openGvisor(ctx context.Context, c *Config, guest engine.Bundle, why string) (LocalEngine, error) {
	if c.Runtime != "" && c.Runtime != "auto" && c.Runtime != "runsc" {
		return nil, sandbox.Errorf(sandbox.Unavailable, "the gvisor engine has only the runtime runsc, not %q: use --engine docker", sandbox.Quote(c.Runtime))
	}
	e, err := gvisor.New(ctx, gvisor.Config{Dir: filepath.Join(c.Home, home.GvisorName), Bundle: guest, Why: why,
		Pull: true, WithoutCgroups: c.WithoutCgroups})
	if err != nil {
		return nil, err
	}
	return e, nil
}
