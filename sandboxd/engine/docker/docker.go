// Package docker implements [engine.Engine] with a Docker engine, local or remote, through the engine's API. It is
// the only package that uses Docker.
//
//   - [New], [Config], [Engine]: open an engine and describe it (docker.go)
//   - finding an engine: DOCKER_HOST, contexts, the usual sockets (discover.go, contexts.go)
//   - [profile]: the container configuration that isolates a sandbox, as a pure function (profile.go), and the system
//     calls that it allows ([engine.Seccomp]), with golden files in testdata
//   - the facts about an engine and an image that the profile depends on (facts.go)
//   - creating, finding, listing and removing containers (create.go)
//   - the stream to the guest (dial.go): through the engine's exec (stream.go) or, on the same machine, through the
//     container's own runtime (package directexec)
//   - [Engine.Suspend] and [Engine.Resume] (suspend.go): to a checkpoint on disk (checkpoint.go, disk.go, package
//     copies), or paused (pause.go)
//   - repairs after a crash of the daemon or the engine (repair.go)
//   - [Engine.Fork] (fork.go)
//   - installing the guest: one volume for each build and architecture, which containers mount read-only (bundle.go)
//   - images: check, import, build (images.go)
//   - [Engine.Doctor]: reports what could be safer or faster (doctor.go, versions.go)
//   - translating Docker's errors (errors.go)
//
// docs/isolation.md describes what isolates a sandbox.
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
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/docker/copies"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/locks"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/streams"
)

// Config configures [New].
type Config struct {
	// Home is the opaque name of the daemon's home. Containers have it as a label, and an Engine lists and changes
	// only the containers of its own home.
	Home string
	// Bundle is the guest. Without a bundle, images and checks work but sandboxes can't be created. With a bundle,
	// New repairs suspends and resumes that a crash interrupted. New can't distinguish these from suspends and resumes
	// in progress, so no other process may suspend or resume sandboxes of this home at the same time.
	Bundle engine.Bundle
	// Runtime names the engine's runtime to use. If it is empty or "auto", New uses runsc if the engine lists it, and
	// otherwise the engine's default. If the engine lacks the named runtime, New returns an error and does not use
	// another runtime.
	Runtime string
	// Host is the engine's address, as in DOCKER_HOST. If it is empty, New looks for an engine.
	Host string
	// NoDirectExec connects to guests only through the engine's exec, never through the container's runtime.
	NoDirectExec bool
}

func (c Config) validate() error {
	if !labelValue.MatchString(c.Home) {
		return fmt.Errorf("home %q is not a valid label value: use 1 to 64 letters, digits, '-' or '_'", c.Home)
	}
	return nil
}

// Engine runs sandboxes on a Docker engine. It implements [engine.Engine], [engine.Suspender] and [engine.Forker].
type Engine struct {
	api    *client.Client
	home   string
	guest  *guestVolumes
	bundle engine.Bundle
	facts  engineFacts
	system system.Info
	info   engine.Info
	local  bool // the engine is reached through a unix socket, so it may be on this machine
	direct bool // guests may be reached through the container's runtime

	changes    locks.Locks  // a call that suspends, resumes, forks or removes a sandbox holds the sandbox's lock
	dials      locks.Locks  // a dial holds the sandbox's lock shared; a call that suspends, resumes or forks holds it exclusively
	streams    streams.Open // the open streams to each container, by container id
	resumedIDs sync.Map     // ids of sandboxes that this process has resumed; Docker may still report them as paused
}

var _ engine.Engine = (*Engine)(nil)

// New finds a Docker engine and chooses a runtime. The error is of kind unavailable if no engine answers or if the
// engine lacks the runtime. The caller closes the engine.
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
		if err := e.repairAfterCrash(ctx); err != nil {
			found.api.Close()
			return nil, err
		}
	}
	return e, nil
}

// open asks the engine for its properties, and sets e.system, e.direct, e.facts and e.info.
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
	if e.facts.CopyPlaces, err = copies.Places(e.api.DaemonHost()); err != nil {
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
