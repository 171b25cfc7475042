// Package gvisor runs sandboxes itself with gVisor's runsc, on Linux without Docker, as root
// or as an ordinary user. It is the only package that knows runsc.
//
//   - [New], [Config], [Engine]: opening an engine, and what it says of itself (gvisor.go)
//   - where everything is on disk (layout.go), and what is put right at a start (recover.go)
//   - what isolates a sandbox: [profile], one pure function, with a golden file in testdata
//     (profile.go; oci.go has the words of its answer)
//   - finding, keeping and calling runsc (runsc.go)
//   - a sandbox's life (create.go, list.go, remove.go), its processes (process.go) and cgroups (cgroup.go)
//   - what is otherwise for who is not root: namespaces (rootless.go) and cgroups (delegated.go)
//   - the streams to its guest: over that one's stdin and stdout (sandboxd/stdio), or by who joins it (dial.go)
//   - memory to disk and back: [Engine.Suspend], [Engine.Resume] (suspend.go), [Engine.Fork] (fork.go), and
//     what a sandbox falls back to whose processes die, [Engine.Checkpoint] (kept.go)
//   - what new sandboxes start from: [Engine.Snapshot], [Engine.Start] (snapshot.go)
//   - the processes that the next one which is restored need not wait for (spare.go), and the calls of runsc that
//     have started already (standby.go)
//   - what makes a checkpoint whole and ours (checkpoint.go, cpu.go), and small (pack.go, packer.go)
//   - images: a root file system in a tar, or layers from a registry, an OCI layout or `docker save` (pull.go),
//     unpacked once and shared (images.go, unpack.go), and removed when nobody uses them (tidy.go)
//   - the guest, written once for each build (guest.go)
//   - what is weaker than it could be: [Engine.Doctor] (doctor.go)
//   - what only Linux has (linux.go, other.go)
//
// A sandbox is two processes that are nobody's children: they outlive the daemon, and are
// found again by the folder of their sandbox.
package gvisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/streams"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Config is how an engine is opened.
type Config struct {
	// Dir is the folder, of one daemon's home, that holds what the engine keeps. Sandboxes
	// belong to it: engines with different folders do not see each other's.
	Dir string
	// Images is the folder of unpacked images, which homes share. Empty: [DefaultImages].
	Images string
	// Bundle is the guest. Without one there are images and checks, and no sandboxes;
	// with one, nobody else may have Dir open, because what a crash left is put right.
	Bundle engine.Bundle
	// Runsc is the program. Empty: beside this program's own file, then in PATH.
	Runsc string
	// Why says why this engine was chosen, for a person.
	Why string
	// WithoutCgroups allows sandboxes on a machine where cgroups can't be used. Then only the
	// guest's watchdog bounds memory and processes, and nothing bounds CPU.
	WithoutCgroups bool
	// CompressAfter is how long a sandbox is suspended before its state is compressed. Zero:
	// [DefaultCompressAfter]; negative: never.
	CompressAfter time.Duration
	// Pull allows images that are not here to be pulled from their registries when a sandbox asks for them. Which
	// may be asked for is decided elsewhere.
	Pull bool
}

// Engine runs sandboxes with runsc.
type Engine struct {
	layout  layout
	images  images
	bundle  engine.Bundle
	build   string // of the runsc that new sandboxes get
	cgroups cgroups
	info    engine.Info
	locks   locks
	streams streams.Open[sandbox.ID]
	packer  packer
	pulls   pulls
	mayPull bool

	snapshots snapshots
	spares    spares
	standbys  standbys

	ctx    context.Context // of what goes on by itself, until Close
	quit   context.CancelFunc
	chores sync.WaitGroup

	guestOnce sync.Mutex
	guest     string // the guest's folder, when it is there
}

var (
	_ engine.Engine       = (*Engine)(nil)
	_ engine.Checkpointer = (*Engine)(nil)
	_ engine.Forker       = (*Engine)(nil)
	_ engine.Snapshotter  = (*Engine)(nil)
)

// New opens the engine. The error is unavailable, and says what is missing, where the
// engine can't work. The caller closes it.
func New(ctx context.Context, cfg Config) (_ *Engine, err error) {
	defer func() { err = images{cfg.Images}.blameDisk(err) }()
	if runtime.GOOS != "linux" {
		return nil, sandbox.Errorf(sandbox.Unavailable, "the gvisor engine runs on Linux only: use a Docker engine here")
	}
	if !filepath.IsAbs(cfg.Dir) {
		return nil, fmt.Errorf("open gvisor: the folder %q is not absolute", cfg.Dir)
	}
	if cfg.Images == "" {
		dir, err := DefaultImages()
		if err != nil {
			return nil, err
		}
		cfg.Images = dir
	}
	program, why, err := findRunsc(cfg.Runsc)
	if err != nil {
		return nil, err
	}
	if err := tryNamespace(program); err != nil {
		return nil, err
	}
	// gVisor opens no path that contains a symbolic link.
	for _, dir := range []*string{&cfg.Dir, &cfg.Images} {
		if *dir, err = makeReal(*dir); err != nil {
			return nil, err
		}
	}
	e := &Engine{layout: layout{cfg.Dir}, images: images{cfg.Images}, bundle: cfg.Bundle, mayPull: cfg.Pull, spares: spares{wants: make(chan spareKind, 1)}}
	if err := e.layout.make(); err != nil {
		return nil, err
	}
	if e.build, err = e.layout.keepRunsc(program, e.images); err != nil {
		return nil, err
	}
	e.cgroups = findCgroups()
	if e.cgroups.missing != "" && !cfg.WithoutCgroups {
		return nil, sandbox.Errorf(sandbox.Unavailable,
			"the gvisor engine can't limit sandboxes, because %s: %s, or say --without-cgroups if you trust what runs in them not to use up this machine",
			e.cgroups.missing, e.cgroups.remedy)
	}
	e.info = engine.Info{
		Name: "gvisor", Runtime: "runsc", Runtimes: []string{"runsc"},
		Version:   runscVersion(program),
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
		if err := e.images.enter(e.layout); err != nil {
			return nil, err
		}
		e.chores.Go(func() {
			giveWay()
			_ = e.images.tidy(e.ctx, time.Now()) // what can't be removed now is tried again at the next start
		})
		e.chores.Go(e.keepSpare)
		if cfg.CompressAfter >= 0 {
			e.packer.start(e, cmp.Or(cfg.CompressAfter, DefaultCompressAfter))
		}
	}
	return e, nil
}

// Info implements [engine.Engine].
func (e *Engine) Info() engine.Info { return e.info }

// Close implements [engine.Engine]. It closes the streams that are open.
func (e *Engine) Close() error {
	e.quit()
	e.chores.Wait()
	e.streams.CloseAll()
	return nil
}

func noSandbox(id sandbox.ID) *sandbox.Error {
	return sandbox.Errorf(sandbox.NotFound, "there is no running sandbox %q here", sandbox.Quote(string(id)))
}

var errExists = errors.New("there is a sandbox of that id already")

// locks lets one operation at a time work on a sandbox.
type locks struct {
	mu   sync.Mutex
	held map[sandbox.ID]*lock
}

type lock struct {
	turn  chan struct{}
	users int
}

// take waits for the sandbox's turn. The function that it returns ends it.
func (l *locks) take(ctx context.Context, id sandbox.ID) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	if l.held == nil {
		l.held = map[sandbox.ID]*lock{}
	}
	k := l.held[id]
	if k == nil {
		k = &lock{turn: make(chan struct{}, 1)}
		l.held[id] = k
	}
	k.users++
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if k.users--; k.users == 0 {
			delete(l.held, id)
		}
	}
	select {
	case k.turn <- struct{}{}:
		return func() { <-k.turn; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
