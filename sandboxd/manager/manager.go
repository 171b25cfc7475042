// Package manager implements the life cycle of sandboxes: it creates them, runs code in them, suspends and
// resumes them, and terminates them. It is the only package that makes these decisions. Package store persists
// the records, and package engine runs the containers. Package sandboxd creates the manager and serves it over
// HTTP with package api. The manager itself does not handle HTTP, Docker or MCP.
//
// [Manager] is the entry point, and [Config] its settings. The type box represents a sandbox that is running or
// suspended, the type creation one that is being created, and the type remains a terminated sandbox whose
// container has not been removed yet. The files:
//
//   - manager.go: [Manager], [Config], starting and stopping
//   - create.go: [Manager.Create]; room.go: capacity limits; launch.go: starting a container, from a snapshot
//     if possible; fork.go: forks
//   - find.go: looking up sandboxes by id or display name; look.go: [Manager.Get] and [Manager.List]
//   - box.go: the box, its locks and its connections to the guest; call.go: calls to the guest, and diagnosis
//     when it does not answer
//   - execute.go: [Manager.Execute]; execution.go: [Manager.GetExecution], [Manager.Interrupt] and
//     [Manager.FollowExecution]; pending.go: executions whose end is not recorded yet; watch.go: waiting for
//     them to end
//   - files.go: reading, writing and listing files
//   - suspend.go: suspending idle sandboxes and resuming them; checkpoint.go: checkpoints of running sandboxes;
//     disk.go: the disk space of checkpoints; rewind.go: returning to a checkpoint after the processes died
//   - life.go: [Manager.Update], [Manager.Delete] and termination; expire.go: the expiry loop
//   - plan.go, reconcile.go: comparing the records with the engine's containers, at start and every sweepEvery,
//     and correcting the differences
//
// A method reports success only after the record of the change is on disk, so that the answer survives a crash.
//
// # Locks
//
// A goroutine that holds one of these locks may take only locks further down the list:
//
//   - look.mu serializes status requests to one guest.
//   - box.life serializes the transitions of one sandbox: suspend, resume, checkpoint, fork, rewind, update and
//     termination. It is a channel that is used as a lock, so that waiting for it can be cancelled. It is held
//     during calls to the engine, the store and the guest. A goroutine that holds the life lock of one box must
//     not wait for that of another; it uses box.tryChange, which does not wait. Otherwise two sandboxes that
//     need each other's capacity would deadlock.
//   - disk.reserving serializes reservations of disk space.
//   - inspection.mu serializes requests to the engine for its list of containers.
//   - Manager.mu guards the tables of sandboxes.
//   - box.mu guards the fields of one box.
//
// Manager.mu and box.mu are held only briefly, never during a call to the store, a guest or the engine (except
// Engine.Info and engine.As, which do not block). No lock is held while a call waits for user code to end, with
// one exception: a fork holds the life lock of the original for up to forkPatience while it waits for the
// original to become idle.
//
// A method takes the locks that it needs itself, unless its comment says that the caller must hold a lock.
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

// Config is the configuration of a [Manager]. A zero value selects the default that the field's comment states.
type Config struct {
	// Store holds the records. The caller closes it after the manager.
	Store *store.Store
	// Engine runs the containers. The caller closes it after the manager.
	Engine engine.Engine

	DefaultImage string
	AllowImages  []string       // images that a request may select besides DefaultImage; "*" allows any
	Limits       sandbox.Limits // of a sandbox whose request sets no limits; zero: sandbox.DefaultLimits
	DefaultTTL   time.Duration  // zero: sandbox.DefaultTTL
	MaxSandboxes int            // how many sandboxes may run at the same time; zero: sandbox.DefaultMaxSandboxes
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
	// It must not block or call the manager, because it can be called while the sandbox's life lock is held.
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
	Config

	ctx  context.Context // cancelled by Close; for the manager's background work
	stop context.CancelFunc
	work sync.WaitGroup

	// mu guards closed, boxes, creating, leaving and preparing, and also disk.saving and disk.full.
	mu        sync.Mutex
	closed    bool
	boxes     map[sandbox.ID]*box      // running or suspended sandboxes
	creating  map[sandbox.ID]*creation // sandboxes that are being created
	leaving   map[sandbox.ID]*remains  // terminated sandboxes whose container may still exist
	preparing patience                 // delay after a failed snapshot

	expiryChanged chan struct{} // holds one value if expireLoop must look for the next expiry again
	inspection    inspection
	disk          disk
	telling       chan struct{} // semaphore that limits concurrent doTell actions to atOnce
}

// remains is a terminated sandbox whose container must be removed. Its rec does not change.
type remains struct {
	rec      store.Sandbox
	clearing bool // a call of Manager.clear is removing the container; guarded by Manager.mu
}

// New returns a manager of the sandboxes recorded in c.Store. It does not start the
// background work; call [Manager.Start] for that.
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

// Start reconciles the records with the engine's containers, resumes watching the executions that a previous
// daemon left unfinished, and starts the background loops. If the engine does not answer, Start succeeds, and
// the sweep loop retries until the engine answers. The caller must call Start exactly once.
func (m *Manager) Start(ctx context.Context) error {
	unfinished, err := m.Store.Unfinished(ctx)
	if err != nil {
		return fmt.Errorf("manager: %w", err)
	}
	m.endUnmade()
	// Register the executions before reconcile, which can terminate their sandboxes: it reports only registered
	// executions as lost.
	for _, e := range unfinished {
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

// Close stops the background work and returns when it has ended. Sandboxes and their executions continue; the
// next manager takes them over.
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

// Ready returns nil if the store and the engine work, so that a sandbox could be created. Otherwise it returns
// the store's or the engine's error.
func (m *Manager) Ready(ctx context.Context) error {
	if err := m.Store.Ping(ctx); err != nil {
		return notRecorded(err)
	}
	if _, err := m.inspect(ctx); err != nil {
		return err
	}
	return nil
}

// spawn runs fn in a goroutine that Close waits for. It returns false, and does not run fn, if the manager is
// closed. The caller must not hold m.mu.
func (m *Manager) spawn(fn func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false
	}
	m.work.Go(fn)
	return true
}

// finish runs fn in the background and returns its error. If ctx ends first, finish returns ctx.Err() and fn
// continues. fn gets a context that ends only with the manager.
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

// allBoxes returns all running and suspended sandboxes. The caller must hold m.mu.
func (m *Manager) allBoxes() []*box {
	all := make([]*box, 0, len(m.boxes))
	for _, b := range m.boxes {
		all = append(all, b)
	}
	return all
}

// now returns the wall-clock time in UTC. It strips the monotonic reading, so that differences between times
// include changes of the system clock.
func (m *Manager) now() time.Time { return m.Now().Round(0).UTC() }

func errStopping() error {
	return sandbox.Errorf(sandbox.Unavailable, "the daemon is stopping: try again in a moment")
}

// notRecorded returns the error to report for a change that the store could not write.
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
