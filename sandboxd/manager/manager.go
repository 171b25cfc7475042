// Package manager implements the life cycle of sandboxes: it creates them, runs code in them, suspends and
// resumes them, and terminates them. It is the only package that makes these decisions. Package store persists
// the records, and package engine runs the containers. Package sandboxd creates the manager and serves it over
// HTTP with package api. The manager itself does not handle HTTP, Docker or MCP.
//
// [Manager] is the entry point, and [Config] its settings. The type liveSandbox is one sandbox: its state, its
// record, its pending executions and its guest. The rules that need no I/O have packages of their own:
//
//   - lifecycle: the states of a sandbox, which transitions are allowed, and which goroutine may make them
//   - delivery: pending executions, each of which runs at most once
//   - capacity: how many sandboxes may run, and how much memory they may use
//   - reconcile: what to do when the records and the engine's containers differ
//
// The files of this package, starting with the methods that package api calls:
//
//   - manager.go: [Manager], [Config], starting and stopping; background.go: the goroutines of the manager
//   - create.go: [Manager.Create]; snapshot.go: starting a container, from a snapshot if possible; fork.go: forks
//   - registry.go: finding sandboxes by id or display name; view.go: [Manager.Get] and [Manager.List]
//   - execute.go: [Manager.Execute]; execution.go: [Manager.GetExecution], [Manager.Interrupt] and
//     [Manager.FollowExecution]; watch.go: recording the ends of executions
//   - files.go: reading, writing and listing files
//   - update.go: [Manager.Update] and the expiry of a guest; terminate.go: [Manager.Delete] and every other end of
//     a sandbox; expire.go: the expiry loop
//   - live.go: the type liveSandbox; call.go: calls to its guest, and diagnosis when the guest does not answer
//   - idle.go: which idle sandboxes are suspended or checkpointed, and when; suspend.go, resume.go, checkpoint.go:
//     these operations; rewind.go: returning to a checkpoint after the processes died
//   - limits.go: the limits on running sandboxes; disk.go: the disk space of checkpoints
//   - sweep.go: reconciling at start and every sweepEvery; inspect.go: the engine's list of containers
//
// A method reports success only after the store has written the record of the change. So the answer is still true
// after a crash of the daemon.
//
// # Locks
//
// A goroutine that holds one of these locks may take only locks further down the list:
//
//   - statusCache.mu serializes status requests to one guest.
//   - A [lifecycle.Transition] is the exclusive right to change the state of one sandbox: suspend, resume,
//     checkpoint, fork, rewind, update and terminate it. It is held during calls to the engine, the store and the
//     guest. Functions that need it take it as a parameter. A goroutine that holds the Transition of one sandbox
//     must not wait for that of another; it uses TryBegin. Otherwise two sandboxes that need each other's capacity
//     would deadlock. A fork is an exception: the goroutine that creates it holds the fork's Transition and waits
//     for that of the original. That cannot deadlock, because no goroutine that holds another Transition waits for
//     the Transition of a sandbox that is being created.
//   - disk.reserving serializes reservations of disk space.
//   - inspection.mu serializes requests to the engine for its list of containers.
//   - All other locks are held only while fields are read or written, and never during a call to the engine, the
//     store or the guest.
//
// No lock is held while a call waits for user code to end.
package manager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/capacity"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// Config is the configuration of a [Manager]. A zero value selects the default that the field's comment states.
type Config struct {
	// Store holds the records. The caller closes it after the manager.
	Store *store.Store
	// Engine runs the containers. The caller closes it after the manager.
	Engine engine.Engine

	DefaultImage string
	AllowImages  []string      // images that a request may select besides DefaultImage; "*" allows any
	DefaultTTL   time.Duration // zero: sandbox.DefaultTTL
	MaxSandboxes int           // how many sandboxes may run at the same time; zero: sandbox.DefaultMaxSandboxes
	// MaxSandboxesPerOwner limits the number of sandboxes, running or suspended, of each owner except the
	// operator. Zero means no limit.
	MaxSandboxesPerOwner int
	// MaxMemory limits the sum of the memory limits of the running sandboxes, in bytes. Zero means four times
	// the memory of the engine's machine, because few sandboxes come near their memory limit.
	MaxMemory int64

	// IdleSuspend is how long a sandbox must be idle before it is suspended, if the engine supports that. Zero
	// means never.
	IdleSuspend time.Duration
	// CheckpointEvery is how long a running sandbox must be idle before it is checkpointed, if the engine
	// supports that. Zero means never.
	CheckpointEvery time.Duration
	// MaxDisk limits the disk space of all checkpoints together, in bytes. Zero means no limit.
	MaxDisk int64

	// OnExecution, if set, is called once for each execution when it has begun, and once more when it is final.
	// It must not block or call the manager, because it can be called while a Transition is held.
	OnExecution func(sandbox.Execution)

	Logger *slog.Logger     // nil: no logging
	Now    func() time.Time // returns the wall-clock time; nil: time.Now
}

// memoryOvercommit is the default of [Config.MaxMemory], as a multiple of the memory of the engine's machine.
const memoryOvercommit = 4

func (c *Config) validate() error {
	if c.Store == nil || c.Engine == nil {
		return errors.New("manager: a store and an engine are needed")
	}
	if c.DefaultTTL == 0 {
		c.DefaultTTL = sandbox.DefaultTTL
	}
	if err := sandbox.ValidateTTL(c.DefaultTTL); err != nil {
		return fmt.Errorf("manager: default %w", err)
	}
	if c.MaxSandboxes == 0 {
		c.MaxSandboxes = sandbox.DefaultMaxSandboxes
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

// Manager manages all sandboxes of one daemon. Its methods are safe for concurrent use.
type Manager struct {
	cfg    Config
	store  *store.Store
	engine engine.Engine
	log    *slog.Logger
	*background

	registry      registry
	capacity      capacity.Ledger
	disk          disk
	inspection    inspection
	snapshots     snapshots
	expiryChanged chan struct{} // holds one value if expireLoop must look for the next expiry again
	expirySetting chan struct{} // semaphore: at most atOnce goroutines of reconcile set a guest's expiry at the same time
}

// New returns a manager of the sandboxes recorded in c.Store. It does not start the
// background work; call [Manager.Start] for that.
func New(c Config) (*Manager, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	m := &Manager{
		cfg: c, store: c.Store, engine: c.Engine, log: c.Logger,
		background:    newBackground(),
		registry:      registry{all: map[sandbox.ID]*liveSandbox{}},
		expiryChanged: make(chan struct{}, 1),
		expirySetting: make(chan struct{}, atOnce),
		disk:          disk{writing: map[sandbox.ID]int64{}},
	}
	present, err := c.Store.Present(m.ctx)
	if err != nil {
		return nil, fmt.Errorf("manager: %w", err)
	}
	for _, rec := range present {
		m.registry.add(m.newSandbox(rec))
		m.capacity.Add(rec.ID, useOf(rec), rec.State != sandbox.Suspended)
	}
	return m, nil
}

// Start reconciles the records with the engine's containers, watches the executions that a previous daemon left
// unfinished, and starts the background loops. If the engine does not answer, Start succeeds, and the sweep loop
// retries until the engine answers. The caller must call Start exactly once.
func (m *Manager) Start(ctx context.Context) error {
	unfinished, err := m.store.Unfinished(ctx)
	if err != nil {
		return fmt.Errorf("manager: %w", err)
	}
	m.terminateInterrupted(ctx)
	// Register the executions before calling reconcile. It can terminate their sandboxes, and reports only registered
	// executions as lost.
	for _, e := range unfinished {
		if s := m.created(e.SandboxID); s != nil {
			s.executions.Recover(e.Execution, s.life.Retain())
		}
	}
	err = m.reconcile(ctx)
	if err != nil {
		m.log.Warn("the engine does not answer yet", "error", err)
	}
	for _, e := range unfinished {
		if s := m.created(e.SandboxID); s != nil {
			s.watch(e.ID)
		}
	}
	m.spawn(m.expireLoop)
	if m.cfg.IdleSuspend > 0 || m.cfg.CheckpointEvery > 0 {
		m.spawn(m.idleLoop)
	}
	m.spawn(func() { m.sweepLoop(err != nil) })
	m.prepareDefaultSnapshot()
	return nil
}

// Close stops the background work and returns when it has ended. Sandboxes and their executions continue; the
// next manager takes them over.
func (m *Manager) Close() {
	m.stop()
	for _, s := range m.registry.list() {
		s.close()
	}
	m.goroutines.Wait()
	m.storeUsed()
}

// Ready returns nil if the store and the engine work, so that a sandbox could be created. Otherwise it returns
// the store's or the engine's error.
func (m *Manager) Ready(ctx context.Context) error {
	if err := m.store.Ping(ctx); err != nil {
		return notRecorded(err)
	}
	_, err := m.inspect(ctx)
	return err
}

// now returns the wall-clock time in UTC. It strips the monotonic reading, so that differences between times
// include changes of the system clock.
func (m *Manager) now() time.Time { return m.cfg.Now().Round(0).UTC() }

// notRecorded returns the error to report for a change that the store could not write.
func notRecorded(err error) error {
	switch {
	case errors.Is(err, store.ErrClosed):
		return sandbox.ErrStopping
	case errors.Is(err, store.ErrNotFound):
		return sandbox.Errorf(sandbox.Unavailable, "the sandbox was terminated or changed at the same time, so nothing was done: try again").WithCause(err)
	case store.IsFull(err):
		return sandbox.Errorf(sandbox.Unavailable, "the disk with Dormouse's records is full, so nothing was changed: delete a sandbox that is not needed, or ask the user to free space on the disk").WithCause(err)
	}
	return sandbox.Errorf(sandbox.Unavailable, "the daemon cannot write its records, so nothing was changed: ask the user to look at the daemon's log, which has the cause").WithCause(err)
}
