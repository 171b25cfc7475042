// Package docker runs sandboxes on a Docker engine, local or remote, through the
// engine's API. It is the only package that knows Docker.
//
//   - [New], [Config], [Engine]: opening an engine, and what it says of itself (docker.go)
//   - which engine: DOCKER_HOST, contexts, the usual sockets (discover.go, contexts.go)
//   - what isolates a sandbox: [profile], one pure function (profile.go), and the system calls that
//     it allows ([engine.Seccomp]), with golden files in testdata
//   - what the profile needs to know of an engine and of an image (facts.go)
//   - a container's life (create.go) and the stream to its guest (dial.go): through the engine's exec (stream.go) or, on
//     the same machine, the container's own runtime (runtime.go)
//   - memory to disk and back, or frozen: [Engine.Suspend], [Engine.Resume] (suspend.go, disk.go), one at a
//     time (turns.go), and copies: [Engine.Fork] (fork.go)
//   - removing the copies of that memory that containerd leaves behind (copies.go)
//   - how the guest gets into a container: one read-only volume per build (bundle.go)
//   - images: have, import, build (images.go)
//   - what is weaker than it could be: [Engine.Doctor] (doctor.go, floors.go)
//   - Docker's errors as ours (errors.go)
//
// docs/isolation.md is the reader's guide to what isolates a sandbox.
package docker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/docker/docker/api/types/system"
	"github.com/docker/docker/client"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/streams"
)

// Config is how an engine is opened.
type Config struct {
	// Home is the opaque name of the daemon's home; containers carry it as a label, and
	// an engine sees and touches only containers of its own.
	Home string
	// Bundle is the guest. Without one there are images and checks, and no sandboxes; with
	// one, nobody else may suspend or resume the home's, because what a crash left is put right.
	Bundle engine.Bundle
	// Runtime names the engine's runtime to use. Empty or "auto": runsc if the
	// engine lists it, else the engine's default. A runtime that is named and not
	// there is an error, never a fallback.
	Runtime string
	// Host is the engine's address, as in DOCKER_HOST. Empty: it is looked for.
	Host string
	// NoDirectExec connects to guests only through the engine's exec, never through the container's runtime.
	NoDirectExec bool
}

func (c Config) validate() error {
	if !labelValue.MatchString(c.Home) {
		return fmt.Errorf("home %q: a label's value is 1 to 64 letters, digits, '-' or '_'", c.Home)
	}
	return nil
}

// Engine is a Docker engine.
type Engine struct {
	api    *client.Client
	home   string
	guest  *guestVolumes
	bundle engine.Bundle
	facts  engineFacts
	system system.Info
	info   engine.Info
	local  bool // the engine may be on this machine
	direct bool // guests may be reached through the container's runtime

	turns   turns
	streams streams.Open[string] // by container
	thawed  sync.Map             // ids of what was paused and, as the engine was told by us, is not any more
}

var _ engine.Engine = (*Engine)(nil)

// New finds a Docker engine and chooses a runtime. The error is unavailable if no
// engine answers or the runtime is not there. The caller closes the engine.
func New(ctx context.Context, cfg Config) (*Engine, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	found, err := discover(ctx, cfg.Host)
	if err != nil {
		return nil, err
	}
	e := &Engine{api: found.api, home: cfg.Home, bundle: cfg.Bundle, local: strings.HasPrefix(found.api.DaemonHost(), "unix:")}
	if err := e.open(ctx, cfg.Runtime, found.why, cfg.NoDirectExec); err != nil {
		found.api.Close()
		return nil, err
	}
	e.guest = newGuestVolumes(e.api, cfg.Bundle)
	if cfg.Bundle != nil {
		if err := e.recover(ctx); err != nil {
			found.api.Close()
			return nil, err
		}
	}
	return e, nil
}

// open asks the engine what it is and fills in facts and info.
func (e *Engine) open(ctx context.Context, runtime, why string, noDirectExec bool) error {
	sys, err := e.api.Info(ctx)
	if err != nil {
		return wrap("ask the engine what it is", err)
	}
	runtime, whyRuntime, err := chooseRuntime(runtime, sys)
	if err != nil {
		return err
	}
	e.system = sys
	e.direct = directExec(e.local, noDirectExec, sys)
	e.facts = factsOf(sys, e.home, e.api.ClientVersion(), runtime)
	if e.facts.CopyPlaces, err = copyPlaces(e.api.DaemonHost()); err != nil {
		e.facts.CopiesStay = err.Error()
	}
	versions := e.componentVersions(ctx)
	e.info = engine.Info{
		Name:      "docker",
		Runtime:   runtime,
		Runtimes:  slices.Sorted(maps.Keys(sys.Runtimes)),
		Version:   sys.ServerVersion,
		Isolation: e.facts.isolation(),
		Why:       why + "; " + whyRuntime,
		CPUs:      sys.NCPU,
		Memory:    sys.MemTotal,
		Suspend:   suspensionOf(sys, versions, e.facts),
	}
	for _, c := range systemChecks(sys, versions, e.facts) {
		if c.Status != engine.OK {
			e.info.Warnings = append(e.info.Warnings, fmt.Sprintf("%s: %s: %s", c.Name, c.Detail, c.Remedy))
		}
	}
	return nil
}

// Info implements [engine.Engine].
func (e *Engine) Info() engine.Info { return e.info }

// Close implements [engine.Engine].
func (e *Engine) Close() error {
	e.streams.CloseAll()
	return e.api.Close()
}
