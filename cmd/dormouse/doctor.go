package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dormouse-sandbox/dormouse/image"
	"github.com/dormouse-sandbox/dormouse/sandboxd"
	"github.com/dormouse-sandbox/dormouse/sandboxd/api"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/home"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

type doctorCommand struct {
	EngineOnly bool `help:"Only check whether an engine answers, and print its runtimes. Exit with status 1 if none does." env:"-"`
	JSON       bool `help:"Print JSON." env:"-"`
	daemonFlags
}

// diagnosis is the result of doctor.
type diagnosis struct {
	OK       bool           `json:"ok"` // an engine works and no check is engine.Bad
	Why      string         `json:"why,omitempty"`
	Runtimes []string       `json:"runtimes,omitempty"` // the engine's runtimes
	Image    bool           `json:"image"`              // the engine has the sandbox image
	Checks   []engine.Check `json:"checks,omitempty"`
}

func (c *doctorCommand) Run(ctx context.Context) error {
	d := c.diagnose(ctx)
	if c.JSON {
		if err := printJSON(d); err != nil {
			return err
		}
	} else if c.EngineOnly {
		fmt.Println(d.Why)
	} else {
		d.print()
	}
	if !d.OK {
		return exitCode(exitFailed)
	}
	return nil
}

func (c *doctorCommand) diagnose(ctx context.Context) diagnosis {
	var d diagnosis
	var engineWarnings []string // the engine's warnings; e.Doctor reports them, so the daemon's check leaves them out
	parentCtx := ctx
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	cfg := c.config()
	e, err := sandboxd.OpenEngine(ctx, cfg)
	if err != nil {
		d.Why = sentence(err)
		d.Checks = append(d.Checks, engine.Check{Name: "engine", Status: engine.Bad, Detail: "no engine works on this machine", Remedy: d.Why})
	} else {
		defer e.Close()
		engineWarnings = e.Info().Warnings
		d.OK, d.Why, d.Runtimes = true, e.Info().Why, e.Info().Runtimes
		d.Image, _ = e.HasImage(ctx, c.image())
		if !c.EngineOnly {
			d.Checks = e.Doctor(ctx, c.image())
		}
		if !c.EngineOnly && d.Image {
			cfg.Engine = e.Info().Name // the engine that "auto" chose
			d.Checks = append(d.Checks, tryEngine(parentCtx, cfg))
		}
	}
	if c.EngineOnly {
		return d
	}
	d.Checks = append(d.Checks, c.daemon(ctx, engineWarnings), imageCache(), platform())
	for _, check := range d.Checks {
		d.OK = d.OK && check.Status != engine.Bad
	}
	return d
}

const (
	checkTimeout = time.Minute // the time limit for the checks of the engine and the daemon
	tryTimeout   = time.Minute // the time limit for starting and using a sandbox
)

// tryEngine checks that a sandbox can be created, can run a statement and can be deleted.
func tryEngine(ctx context.Context, cfg sandboxd.Config) engine.Check {
	ctx, cancel := context.WithTimeoutCause(ctx, tryTimeout, fmt.Errorf("it took longer than %s", tryTimeout))
	defer cancel()
	start := time.Now()
	err := sandboxd.Try(ctx, cfg, sandbox.Python)
	if err == nil {
		return engine.Check{Name: "sandbox", Status: engine.OK,
			Detail: fmt.Sprintf("a sandbox was created, ran a statement and was deleted in %s", time.Since(start).Round(10*time.Millisecond))}
	}
	detail := strings.Join(strings.Fields(sandbox.Details(err)), " ")
	if cause := context.Cause(ctx); cause != nil {
		detail += ": " + cause.Error()
	}
	if ctx.Err() == nil && sandboxd.Try(ctx, cfg, sandbox.JavaScript) == nil { // some images have node but no python3
		return engine.Check{Name: "sandbox", Status: engine.Weak, Detail: "JavaScript works in a sandbox, but Python does not: " + detail,
			Remedy: "to run Python, choose an image that has python3"}
	}
	return engine.Check{Name: "sandbox", Status: engine.Bad, Detail: "a sandbox could not be created and used: " + detail,
		Remedy: "fix the problems that the checks above report; if there are none, report this as a bug, with this text"}
}

// daemon checks the home's daemon. If no daemon runs, the check passes, because the first command that needs the daemon
// starts it. If the daemon has warnings that are not in knownWarnings, the check reports the first of them.
func (c *doctorCommand) daemon(ctx context.Context, knownWarnings []string) engine.Check {
	client := api.Dial(home.SocketPath(c.Home))
	defer client.Close()
	info, err := client.Info(ctx)
	switch {
	case err != nil:
		return engine.Check{Name: "daemon", Status: engine.OK, Detail: "not running; the first command that needs it starts it"}
	case info.Replaceable:
		return engine.Check{Name: "daemon", Status: engine.Weak, Detail: "running without an engine, home " + c.Home + ": " + info.Why,
			Remedy: "the next command replaces it"}
	case info.Runtime == "":
		return engine.Check{Name: "daemon", Status: engine.Bad, Detail: "running without an engine, home " + c.Home + ": " + info.Why,
			Remedy: "if the problem persists, restart it with settings that work on this machine"}
	case info.Version != version:
		return engine.Check{Name: "daemon", Status: engine.Weak, Detail: "running version " + info.Version + "; this program is version " + version,
			Remedy: "stop it (its pid is in sandboxd.pid in " + c.Home + "): the next command starts this version, and sandboxes are kept"}
	}
	for _, w := range info.Warnings {
		if !slices.Contains(knownWarnings, w) {
			return engine.Check{Name: "daemon", Status: engine.Weak, Detail: "running, home " + c.Home + ": " + w}
		}
	}
	return engine.Check{Name: "daemon", Status: engine.OK, Detail: "running, home " + c.Home}
}

func imageCache() engine.Check {
	dir, err := image.CacheDir()
	if err != nil {
		return engine.Check{Name: "cache", Status: engine.Weak, Detail: err.Error(), Remedy: "set HOME or XDG_CACHE_HOME"}
	}
	return engine.Check{Name: "cache", Status: engine.OK, Detail: "images are cached in " + dir + "; the default is " + image.Ref()}
}

func platform() engine.Check {
	return engine.Check{Name: "dormouse", Status: engine.OK, Detail: version + ", " + runtime.GOOS + "/" + runtime.GOARCH}
}

var marks = map[engine.Status]string{engine.OK: "✓", engine.Weak: "!", engine.Bad: "✗"}

func (d diagnosis) print() {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, c := range d.Checks {
		fmt.Fprintf(w, "%s %s\t%s\n", marks[c.Status], c.Name, c.Detail)
		if c.Status != engine.OK && c.Remedy != "" {
			fmt.Fprintf(w, "\t→ %s\n", c.Remedy)
		}
	}
	w.Flush()
}
