// Package manager is a sandbox's life: it is created, found, used, changed, and one day it
// is deleted, expires or is lost. It is the only place that decides; the store remembers and
// the engine runs. It knows nothing of HTTP, Docker or MCP. In the order of a life:
//
//   - [Manager], [Config]: what there is at all times (manager.go)
//   - [Manager.Create], and what there is room for (create.go, room.go); how it is started (launch.go); one that is a copy (fork.go)
//   - names, [Manager.Get], [Manager.List] (find.go, look.go)
//   - how a sandbox's guest is reached, and what it means when it cannot be (box.go, call.go)
//   - [Manager.Execute], its later life, and how its end gets on record (execute.go, execution.go, pending.go, watch.go)
//   - files (files.go)
//   - how it goes to sleep when nobody uses it, and wakes when somebody does (suspend.go); how its state is saved while it
//     runs on (checkpoint.go), what room that takes (disk.go), and how it goes back to that when its processes died (rewind.go)
//   - [Manager.Update], [Manager.Delete] and every other end (life.go, expire.go)
//   - what was promised against what runs, at start and ever after (plan.go, reconcile.go)
//
// A record is on disk before its promise leaves here. No lock is held while anything
// waits for code to run.
package manager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// Config is what a manager works with. Zero values are useful where the comment says so.
type Config struct {
	Store  *store.Store  // closed by its owner, after the manager
	Engine engine.Engine // likewise

	DefaultImage string
	AllowImages  []string       // other images that may be asked for; "*" is any
	Limits       sandbox.Limits // of a sandbox; zero: sandbox.DefaultLimits
	DefaultTTL   time.Duration  // zero: sandbox.DefaultTTL
	MaxSandboxes int            // at once; zero: 100
	// MaxSandboxesPerOwner bounds the sandboxes that an owner who is not the operator has, awake or asleep. Zero: nothing does.
	MaxSandboxesPerOwner int
	// MaxMemory bounds the sum of the sandboxes' memory limits. Zero: four times the memory of the
	// engine's machine, because a limit is a ceiling that few sandboxes come near.
	MaxMemory int64

	// IdleSuspend is how long a sandbox may be idle before it is suspended, if the engine can. Zero: never.
	IdleSuspend time.Duration
	// CheckpointEvery is how long a sandbox may be idle before its state is saved while it runs on, if the
	// engine can. Zero: never.
	CheckpointEvery time.Duration
	// MaxDisk bounds what saved states take on disk, in bytes. Zero: nothing does.
	MaxDisk int64

	// OnExecution is told of each execution when it has begun, and once more when it is final. It must not wait. Zero: nobody is.
	OnExecution func(sandbox.Execution)

	Logger *slog.Logger     // zero: none
	Now    func() time.Time // the wall clock; zero: time.Now
}

// Defaults of a [Config].
const (
	defaultMaxSandboxes = 100
	memoryOvercommit    = 4
)

func (c *Config) validate() error {
	if c.Store == nil || c.Engine == nil {
		return errors.New("manager: a store and an engine are needed")
	}
	if c.Limits == (sandbox.Limits{}) {
		c.Limits = sandbox.DefaultLimits()
	}
	if c.DefaultTTL == 0 {
		c.DefaultTTL = sandbox.DefaultTTL
	}
	if err := sandbox.ValidateTTL(c.DefaultTTL); err != nil {
		return fmt.Errorf("manager: default %w", err)
	}
	if c.MaxSandboxes == 0 {
		c.MaxSandboxes = defaultMaxSandboxes
	}
	if c.MaxSandboxes < 0 || c.MaxSandboxesPerOwner < 0 || c.MaxMemory < 0 || c.IdleSuspend < 0 || c.CheckpointEvery < 0 || c.MaxDisk < 0 {
		return errors.New("manager: limits and times must not be negative")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return nil
}

// Manager looks after all sandboxes of a home. Its methods may be called concurrently.
type Manager struct {
	Config

	ctx  context.Context // of the manager's own work
	stop context.CancelFunc
	work sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	boxes     map[sandbox.ID]*box      // those that run or sleep
	creating  map[sandbox.ID]*creation // those that are being made
	leaving   map[sandbox.ID]*remains  // those that ended, until their container is gone
	preparing patience                 // with snapshots

	expiryChanged chan struct{}
	inspection    inspection
	disk          disk
	telling       chan struct{} // holds one value for each guest that may be told its expiry at once
}

// remains is a container that must go.
type remains struct {
	rec      store.Sandbox
	clearing bool // somebody is at it
}

// New makes a manager of what the store has. Nothing happens before [Manager.Start].
func New(c Config) (*Manager, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	m := &Manager{
		Config:        c,
		boxes:         map[sandbox.ID]*box{},
		creating:      map[sandbox.ID]*creation{},
		leaving:       map[sandbox.ID]*remains{},
		expiryChanged: make(chan struct{}, 1),
		telling:       make(chan struct{}, atOnce),
		disk:          disk{saving: map[sandbox.ID]int64{}},
	}
	m.ctx, m.stop = context.WithCancel(context.Background())
	present, err := c.Store.Present(m.ctx)
	if err != nil {
		return nil, fmt.Errorf("manager: %w", err)
	}
	for _, rec := range present {
		if rec.State == sandbox.Terminated {
			m.leaving[rec.ID] = &remains{rec: rec}
		} else {
			m.boxes[rec.ID] = m.newBox(rec)
		}
	}
	return m, nil
}

// Start brings the records and the engine together, takes up what the last daemon left
// unfinished, and begins to watch. An engine that does not answer is no error: it is
// asked again until it does. It is called once.
func (m *Manager) Start(ctx context.Context) error {
	unfinished, err := m.Store.Unfinished(ctx)
	if err != nil {
		return fmt.Errorf("manager: %w", err)
	}
	m.endUnmade()
	for _, e := range unfinished { // what the engine says can mean that they are lost
		if b := m.running(e.SandboxID); b != nil {
			b.expectOld(e.Execution)
		}
	}
	err = m.reconcile(ctx)
	if err != nil {
		m.Logger.Warn("the engine does not answer yet", "error", err)
	}
	for _, e := range unfinished {
		if b := m.running(e.SandboxID); b != nil {
			m.follow(b, e.ID)
		}
	}
	m.spawn(m.expireLoop)
	if m.IdleSuspend > 0 || m.CheckpointEvery > 0 {
		m.spawn(m.idleLoop)
	}
	m.spawn(func() { m.sweepLoop(err != nil) })
	m.prepare(m.usual())
	return nil
}

// Close stops the manager's own work and returns when it has ended. Sandboxes and
// executions go on; the next manager finds them.
func (m *Manager) Close() {
	m.mu.Lock()
	m.closed = true
	boxes := m.allBoxes()
	m.mu.Unlock()
	m.stop()
	for _, b := range boxes {
		b.close()
	}
	m.work.Wait()
	m.storeUsed()
}

// Ready returns nil when a sandbox could be created.
func (m *Manager) Ready(ctx context.Context) error {
	if err := m.Store.Ping(ctx); err != nil {
		return notRecorded(err)
	}
	if _, err := m.inspect(ctx); err != nil {
		return err
	}
	return nil
}

// spawn runs fn as the manager's own work, which Close waits for. It reports whether it did.
func (m *Manager) spawn(fn func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false
	}
	m.work.Go(fn)
	return true
}

// finish runs fn to its end even if the caller's ctx ends before, in which case the
// caller is not kept.
func (m *Manager) finish(ctx context.Context, fn func(context.Context) error) error {
	done := make(chan error, 1)
	if !m.spawn(func() { done <- fn(m.ctx) }) {
		return errStopping()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// allBoxes is called with mu held.
func (m *Manager) allBoxes() []*box {
	all := make([]*box, 0, len(m.boxes))
	for _, b := range m.boxes {
		all = append(all, b)
	}
	return all
}

// now is the wall clock. Without the monotonic reading, so that a jump of the clock is one.
func (m *Manager) now() time.Time { return m.Now().Round(0).UTC() }

func errStopping() error {
	return sandbox.Errorf(sandbox.Unavailable, "the daemon is stopping: try again in a moment")
}

// notRecorded is the error of a change that the store could not write.
func notRecorded(err error) error {
	switch {
	case errors.Is(err, store.ErrClosed):
		return errStopping()
	case errors.Is(err, store.ErrNotFound):
		return sandbox.Errorf(sandbox.Unavailable, "the sandbox ended or changed at the same moment, so nothing was done: try again").WithCause(err)
	case store.IsFull(err):
		return sandbox.Errorf(sandbox.Unavailable, "the disk with Dormouse's records is full, so nothing was changed: delete a sandbox that is not needed, or ask the user to free space on the disk").WithCause(err)
	}
	return sandbox.Errorf(sandbox.Unavailable, "the daemon cannot write its records, so nothing was changed: its log has the cause, which the user should see").WithCause(err)
}
