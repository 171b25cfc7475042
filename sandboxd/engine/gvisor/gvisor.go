// Package gvisor implements the engine interface with gVisor's runsc. It runs on Linux, without Docker, as root or as
// an ordinary user. The manager calls it through the interfaces of package engine.
//
//   - opening an engine: [New], [Config], [Engine] (gvisor.go)
//   - the files of the engine's folder (package folder), and repairs when the engine is opened (recover.go, damage.go)
//   - isolation: [profile] is a pure function from the spec to the OCI configuration, with a golden file in testdata
//     (profile.go); oci.go has the types of that configuration
//   - finding, storing and calling runsc, also without root (package runsc)
//   - the life cycle of a sandbox (create.go, list.go, remove.go), its processes (process.go) and cgroups (package cgroup)
//   - streams to the guest: over the guest's own stdin and stdout (sandboxd/stdio), or through `guest connect` (dial.go)
//   - suspending and resuming: [Engine.Suspend], [Engine.Resume] (suspend.go); forking: [Engine.Fork] (fork.go);
//     checkpoints of running sandboxes, for when their processes die: [Engine.Checkpoint] (fallback.go)
//   - snapshots that new sandboxes start from: [Engine.Snapshot], [Engine.Start] (snapshot.go)
//   - a pooled sandbox for the next restore (pool.go)
//   - the files of a checkpoint: whether they are intact and fit this machine, and compression (package checkpoint)
//   - images: importing, unpacking and removing them (package rootfs, called from images.go)
//   - the guest's files, written once for each build (guest.go)
//   - checks of the machine: [Engine.Doctor] (doctor.go)
//   - code that depends on the operating system (linux.go, other.go)
//
// A sandbox consists of two processes that are not children of the daemon. They outlive the daemon, and the next
// daemon finds them through the folder of their sandbox.
//
// The package does not decide which sandboxes exist, when they are suspended or which clients may use them: the
// manager does.
package gvisor

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/cgroup"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/checkpoint"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/rootfs"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/runsc"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/locks"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/streams"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Config is the configuration of an engine.
type Config struct {
	// Dir is the absolute path of the folder that holds the engine's files, in the home of one daemon. Engines with
	// different folders do not see each other's sandboxes.
	Dir string
	// Images is the folder of unpacked images, which all homes share. If it is empty, [rootfs.DefaultDir] is used.
	Images string
	// Bundle holds the guest's files. If it is nil, the engine can manage images and run checks, but not create
	// sandboxes. If it is set, no other engine with a bundle may have Dir open, because New repairs what a crashed
	// daemon left in Dir.
	Bundle engine.Bundle
	// Runsc is the path of the runsc program. If it is empty, New looks for runsc in the folder of the running
	// program, and then in PATH.
	Runsc string
	// Why is a text for people: the reason why this engine was chosen.
	Why string
	// WithoutCgroups allows sandboxes on a machine where cgroups can't be used. On such a machine, only the guest's
	// watchdog limits memory and processes, and nothing limits CPU.
	WithoutCgroups bool
	// CompressAfter is how long a sandbox is suspended before its checkpoint is compressed. Zero means
	// [checkpoint.DefaultPackAfter]; a negative value turns compression off.
	CompressAfter time.Duration
	// Pull allows the engine to pull a missing image from its registry when a sandbox is created with it. The engine
	// does not check which images a client may use.
	Pull bool
}

// Engine runs sandboxes with runsc. It is safe for concurrent use.
type Engine struct {
	layout  folder.Layout
	images  *rootfs.Images
	bundle  engine.Bundle
	runsc   runsc.Caller
	build   string // the build of runsc that new sandboxes use
	cgroups cgroup.Trees
	info    engine.Info
	locks   locks.Locks // a call that works on a sandbox holds the sandbox's lock, so that calls do not overlap
	streams streams.Open
	packer  *checkpoint.Packer
	mayPull bool

	snapshots snapshots
	pool      pool

	ctx        context.Context // for background work; cancelled by Close
	quit       context.CancelFunc
	background sync.WaitGroup

	guestMu sync.Mutex
	guest   string // the name of the guest's folder, once it is installed
}

var (
	_ engine.Engine       = (*Engine)(nil)
	_ engine.Checkpointer = (*Engine)(nil)
	_ engine.Forker       = (*Engine)(nil)
	_ engine.Snapshotter  = (*Engine)(nil)
)

// New opens the engine. If the engine can't work on this machine, New returns an error of kind unavailable that says
// what is missing. The caller must close the engine.
func New(ctx context.Context, cfg Config) (_ *Engine, err error) {
	defer func() { err = folder.ExplainFullDisk(err, cfg.Images) }()
	if runtime.GOOS != "linux" {
		return nil, sandbox.Errorf(sandbox.Unavailable, "the gvisor engine runs on Linux only: use a Docker engine here")
	}
	if !filepath.IsAbs(cfg.Dir) {
		return nil, fmt.Errorf("open gvisor: the folder %q is not absolute", cfg.Dir)
	}
	if cfg.Images == "" {
		dir, err := rootfs.DefaultDir()
		if err != nil {
			return nil, err
		}
		cfg.Images = dir
	}
	program, why, err := runsc.Find(cfg.Runsc)
	if err != nil {
		return nil, err
	}
	if err := runsc.TryNamespace(program); err != nil {
		return nil, err
	}
	// gVisor refuses to open a path that contains a symbolic link.
	for _, dir := range []*string{&cfg.Dir, &cfg.Images} {
		if *dir, err = makeReal(*dir); err != nil {
			return nil, err
		}
	}
	images := rootfs.Open(cfg.Images)
	defer func() {
		if err != nil {
			images.Close()
		}
	}()
	e := &Engine{layout: folder.Layout{Dir: cfg.Dir}, images: images, bundle: cfg.Bundle, mayPull: cfg.Pull, pool: pool{wants: make(chan pooledKind, 1)}}
	e.packer = checkpoint.NewPacker(e.layout, e.locks.Acquire)
	if err := e.layout.Make(); err != nil {
		return nil, err
	}
	if e.build, err = runsc.Keep(e.layout, program, e.images.Program); err != nil {
		return nil, err
	}
	e.cgroups = cgroup.Find()
	if e.cgroups.Missing != "" && !cfg.WithoutCgroups {
		return nil, sandbox.Errorf(sandbox.Unavailable,
			"the gvisor engine can't limit sandboxes, because %s: %s, or pass --without-cgroups if you trust the code in the sandboxes not to use up this machine",
			e.cgroups.Missing, e.cgroups.Remedy)
	}
	e.runsc = runsc.Caller{Layout: e.layout, IgnoreCgroups: e.cgroups.RunscIgnores()}
	e.info = engine.Info{
		Name: "gvisor", Runtime: "runsc", Runtimes: []string{"runsc"},
		Version:   runsc.Version(program),
		Isolation: "gVisor: a kernel of its own for each sandbox",
		Why:       strings.TrimPrefix(cfg.Why+"; "+why, "; "),
		CPUs:      runtime.NumCPU(),
		Memory:    totalMemory(),
		Suspend:   engine.ToDisk,
	}
	for _, c := range e.systemChecks() {
		if c.Status != engine.OK {
			e.info.Warnings = append(e.info.Warnings, c.Detail+": "+c.Remedy)
		}
	}
	if e.bundle != nil {
		if err := e.recover(ctx); err != nil {
			return nil, err
		}
	}
	e.ctx, e.quit = context.WithCancel(context.WithoutCancel(ctx))
	if e.bundle != nil {
		if err := e.images.RegisterHome(e.layout); err != nil {
			return nil, err
		}
		e.background.Go(func() {
			lowerPriority()
			_ = e.images.Tidy(e.ctx, time.Now()) // if this fails, the next start of the daemon tries again
		})
		e.background.Go(e.keepPooled)
		if cfg.CompressAfter >= 0 {
			e.background.Go(func() {
				lowerPriority()
				e.packer.Run(e.ctx, cmp.Or(cfg.CompressAfter, checkpoint.DefaultPackAfter))
			})
		}
	}
	return e, nil
}

// Info implements [engine.Engine].
func (e *Engine) Info() engine.Info { return e.info }

// Close implements [engine.Engine]. It waits for background work to end, and closes all open streams. Sandboxes keep
// running.
func (e *Engine) Close() error {
	e.quit()
	e.background.Wait()
	e.images.Close()
	e.streams.CloseAll()
	return nil
}

// makeReal creates a folder, if it does not exist, and returns its path without symbolic links.
func makeReal(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("open gvisor: %w", err)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", fmt.Errorf("open gvisor: %w", err)
	}
	return real, nil
}
