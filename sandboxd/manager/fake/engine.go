// Package fake contains an engine and a guest that run in the process of a test. The tests of package manager use them
// in place of containers. The engine passes the conformance suite (enginetest), so it behaves as the manager can expect
// of a real engine.
//
//   - engine.go: [Engine]. Its containers outlive a manager, like those of a real engine. A test can make its calls fail
//     or wait, kill containers, and block a call at a step.
//   - guest.go: [Guest], which implements the guest's protocol, with a kernel that runs a few statements.
//   - probe.go: the requests that the conformance suite sends to its own guest.
package fake

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Engine is an engine that runs each container's guest as goroutines of the test. It implements [engine.Checkpointer]
// and [engine.Forker].
//
// The exported fields change its behaviour. A test sets them before the engine is used, or inside of [Engine.Set].
type Engine struct {
	Suspension engine.Suspension // the way to suspend that Info reports
	StateBytes int64             // the size of each checkpoint
	Image      string            // the only image that exists, or empty if every image exists

	CreateGate chan struct{} // if not nil, Create waits until it is closed or its context ends
	FailCreate error         // the error that Create and Fork return

	FailSuspend         error      // the error that Suspend returns
	SuspendDespiteError bool       // Suspend suspends the sandbox even if it returns FailSuspend
	FailResume          error      // the error that Resume returns
	FailRandomly        *rand.Rand // if not nil, Suspend and Resume fail at random

	FailCheckpoint error // the error that Checkpoint returns
	FailRestore    error // the error that guests return for reports of a restore

	// If not nil, Fork calls BeforeFork first, Suspend calls BeforeSuspend first, and so on.
	BeforeFork, BeforeSuspend, BeforeResume, BeforeCheckpoint func(ctx context.Context)

	CrashAt  string        // the name of the step (see [Engine.step]) at which a call blocks until its context ends
	Crashing chan struct{} // closed when a call has reached the step CrashAt

	mu         sync.Mutex // guards the fields above and below, and the fields of all containers
	containers map[sandbox.ID]*container
	down       bool

	creates, suspends, resumes, checkpoints, discards int // the number of calls of each method
}

var (
	_ engine.Checkpointer = (*Engine)(nil)
	_ engine.Forker       = (*Engine)(nil)
)

type container struct {
	spec           engine.Spec
	guest          *Guest
	dead           bool
	suspended      bool
	checkpoint     *memory   // the checkpoint of a running sandbox
	checkpointTime time.Time // when checkpoint was made
	asOf           time.Time // the time of the checkpoint that Resume will restore, if the container's processes have died; otherwise zero
	bytes          int64
	detail         string
}

// ErrDown is the error of calls while the engine does not answer (see [Engine.SetDown]).
var ErrDown = errors.New("connection refused")

// NewEngine returns an engine without containers.
func NewEngine() *Engine {
	return &Engine{containers: map[sandbox.ID]*container{}, Suspension: engine.ToDisk}
}

// Set calls fn with the engine's lock held, so that fn can change the engine's exported fields.
func (e *Engine) Set(fn func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fn()
}

// step marks a point at which a test can kill the daemon: "suspend", "suspended", "resume", "resumed", "checkpoint",
// "checkpointed", "fork", "forked" or "report restore". If name is e.CrashAt, step blocks until ctx ends.
func (e *Engine) step(ctx context.Context, name string) error {
	e.mu.Lock()
	here := name == e.CrashAt
	if here {
		e.CrashAt = ""
		close(e.Crashing)
	}
	e.mu.Unlock()
	if here {
		<-ctx.Done()
	}
	return ctx.Err()
}

// Info implements [engine.Engine].
func (e *Engine) Info() engine.Info {
	return engine.Info{Name: "test", Runtime: "none", CPUs: 4, Memory: 8 << 30, Suspend: e.Suspension}
}

// newGuest returns a guest for a container with this spec. It answers reports of a restore with e.FailRestore.
func (e *Engine) newGuest(spec engine.Spec, m memory) *Guest {
	g := newGuest(spec, m)
	g.checkRestore = func(ctx context.Context) error {
		if err := e.step(ctx, "report restore"); err != nil {
			return err
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.FailRestore
	}
	g.exit = func() { go e.end(spec.ID, "exited with 3") }
	return g
}

// Create implements [engine.Engine].
func (e *Engine) Create(ctx context.Context, spec engine.Spec) error {
	if !sandbox.IsID(string(spec.ID)) {
		return sandbox.Errorf(sandbox.Invalid, "%q is not a sandbox id", sandbox.Quote(string(spec.ID)))
	}
	e.mu.Lock()
	gate := e.CreateGate
	e.creates++
	err := e.FailCreate
	if e.down {
		err = sandbox.Errorf(sandbox.Unavailable, "the test engine does not answer")
	} else if e.Image != "" && spec.Image != e.Image {
		err = sandbox.Errorf(sandbox.Unavailable, "there is no image %s", spec.Image)
	}
	e.mu.Unlock()
	if err != nil {
		return err
	}
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, c := range e.containers {
		if id == spec.ID {
			return fmt.Errorf("create %s: %w", id, engine.ErrExists)
		}
		if c.spec.UID == spec.UID {
			return fmt.Errorf("create %s: sandbox %s has the same uid, %d", spec.ID, id, spec.UID)
		}
	}
	e.containers[spec.ID] = &container{spec: spec, guest: e.newGuest(spec, memory{expires: spec.Expires})}
	return nil
}

// Dial implements [engine.Engine].
func (e *Engine) Dial(ctx context.Context, id sandbox.ID) (net.Conn, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	e.mu.Lock()
	down := e.down
	e.mu.Unlock()
	if down {
		return nil, ErrDown
	}
	g, err := e.running(id)
	if err != nil {
		return nil, err
	}
	conn, err := g.Dial(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := e.running(id); err != nil { // the container was suspended or ended in the meantime
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// running returns the guest of a container that runs.
func (e *Engine) running(id sandbox.ID) (*Guest, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.containers[id]
	switch {
	case c == nil || c.dead:
		return nil, engine.ErrNotFound(id)
	case c.suspended:
		return nil, engine.ErrSuspended()
	}
	return c.guest, nil
}

// Suspend implements [engine.Suspender]. The guest keeps its state, but Dial fails.
func (e *Engine) Suspend(ctx context.Context, id sandbox.ID) error {
	e.mu.Lock()
	e.suspends++
	before, err, suspendAnyway := e.BeforeSuspend, e.FailSuspend, e.SuspendDespiteError
	if e.FailRandomly != nil && e.FailRandomly.IntN(8) == 0 {
		err, suspendAnyway = ErrDown, e.FailRandomly.IntN(2) == 0
	}
	e.mu.Unlock()
	if before != nil {
		before(ctx)
	}
	if err := e.step(ctx, "suspend"); err != nil {
		return err
	}
	g, stateErr := e.running(id)
	if sandbox.KindOf(stateErr) == sandbox.NotFound {
		return stateErr
	}
	if stateErr == nil && (err == nil || suspendAnyway) {
		m := g.memory()
		e.mu.Lock()
		if c := e.containers[id]; c != nil {
			c.suspended, c.checkpoint, c.checkpointTime, c.bytes = true, &m, time.Now(), e.StateBytes
		}
		e.mu.Unlock()
		g.BreakConnections()
		if err := e.step(ctx, "suspended"); err != nil {
			return err
		}
	}
	return err
}

// Resume implements [engine.Suspender].
func (e *Engine) Resume(ctx context.Context, id sandbox.ID) error {
	if err := e.step(ctx, "resume"); err != nil {
		return err
	}
	if err := e.resume(ctx, id); err != nil {
		return err
	}
	return e.step(ctx, "resumed")
}

func (e *Engine) resume(ctx context.Context, id sandbox.ID) error {
	e.mu.Lock()
	before := e.BeforeResume
	e.resumes++
	e.mu.Unlock()
	if before != nil {
		before(ctx)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.containers[id]
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case e.down, e.FailRandomly != nil && e.FailRandomly.IntN(8) == 0:
		return ErrDown
	case e.FailResume != nil:
		return e.FailResume
	case c == nil || c.dead:
		return engine.ErrNotFound(id)
	}
	c.suspended, c.asOf = false, time.Time{}
	return nil
}

// Checkpoint implements [engine.Checkpointer].
func (e *Engine) Checkpoint(ctx context.Context, id sandbox.ID) (err error) {
	e.mu.Lock()
	e.checkpoints++
	before := e.BeforeCheckpoint
	e.mu.Unlock()
	if before != nil {
		before(ctx)
	}
	if err := e.step(ctx, "checkpoint"); err != nil {
		return err
	}
	defer func() {
		if stepErr := e.step(ctx, "checkpointed"); err == nil {
			err = stepErr
		}
	}()
	g, err := e.running(id)
	if err != nil {
		return err
	}
	g.BreakConnections()
	m := g.memory()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.FailCheckpoint != nil {
		return e.FailCheckpoint
	}
	if c := e.containers[id]; c != nil {
		c.checkpoint, c.checkpointTime, c.bytes = &m, time.Now(), e.StateBytes
	}
	return nil
}

// Discard implements [engine.Checkpointer].
func (e *Engine) Discard(_ context.Context, id sandbox.ID) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.discards++
	if c := e.containers[id]; c != nil && !c.suspended {
		c.checkpoint, c.bytes = nil, 0
	}
	return nil
}

// Fork implements [engine.Forker].
func (e *Engine) Fork(ctx context.Context, from, to sandbox.ID) error {
	e.mu.Lock()
	before, err, c := e.BeforeFork, e.FailCreate, e.containers[from]
	e.mu.Unlock()
	if before != nil {
		before(ctx)
	}
	if stepErr := e.step(ctx, "fork"); stepErr != nil {
		return stepErr
	}
	if err != nil {
		return err
	}
	e.mu.Lock()
	if c == nil || c.dead {
		e.mu.Unlock()
		return engine.ErrNotFound(from)
	}
	if e.containers[to] != nil {
		e.mu.Unlock()
		return fmt.Errorf("fork %s to %s: %w", from, to, engine.ErrExists)
	}
	spec, g := c.spec, c.guest
	e.mu.Unlock()
	spec.ID = to
	fork := e.newGuest(spec, g.memory())
	g.BreakConnections()
	e.mu.Lock()
	e.containers[to] = &container{spec: spec, guest: fork}
	e.mu.Unlock()
	return e.step(ctx, "forked")
}

// Remove implements [engine.Engine].
func (e *Engine) Remove(_ context.Context, id sandbox.ID) error {
	e.mu.Lock()
	c, down := e.containers[id], e.down
	if !down {
		delete(e.containers, id)
	}
	e.mu.Unlock()
	if down {
		return ErrDown
	}
	if c != nil {
		e.guestOf(c).kill()
	}
	return nil
}

// List implements [engine.Engine].
func (e *Engine) List(context.Context) ([]engine.Container, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.down {
		return nil, ErrDown
	}
	var all []engine.Container
	for id, c := range e.containers {
		listed := engine.Container{ID: id, Running: !c.dead && !c.suspended, Suspended: c.suspended && !c.dead, AsOf: c.asOf, StateBytes: c.bytes, Detail: c.detail}
		if listed.Suspended {
			listed.Detail = "is suspended"
		}
		all = append(all, listed)
	}
	return all, nil
}

// Close implements [engine.Engine]. Unlike a real engine, it removes all containers, so that a test leaves no
// goroutines.
func (e *Engine) Close() error {
	for _, id := range e.IDs() {
		_ = e.Remove(context.Background(), id)
	}
	return nil
}

// IDs returns the ids of all containers.
func (e *Engine) IDs() []sandbox.ID {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Collect(maps.Keys(e.containers))
}

// Guest returns the guest that a container has now, or nil if there is no such container. A container that is restored
// from a checkpoint gets a new guest.
func (e *Engine) Guest(id sandbox.ID) *Guest {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.containers[id]; c != nil {
		return c.guest
	}
	return nil
}

func (e *Engine) guestOf(c *container) *Guest {
	e.mu.Lock()
	defer e.mu.Unlock()
	return c.guest
}

// Expiry returns the expiry that a container's guest has.
func (e *Engine) Expiry(id sandbox.ID) time.Time {
	g := e.Guest(id)
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.expires
}

// CheckpointTime returns when the last checkpoint of a container was made.
func (e *Engine) CheckpointTime(id sandbox.ID) time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.containers[id].checkpointTime
}

// WillRewind reports whether Resume would restore a container from a checkpoint that is older than its last state.
func (e *Engine) WillRewind(id sandbox.ID) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.containers[id].asOf.IsZero()
}

// Creates returns how often Create was called.
func (e *Engine) Creates() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.creates
}

// Suspends returns how often Suspend and Resume were called.
func (e *Engine) Suspends() (suspends, resumes int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.suspends, e.resumes
}

// Checkpoints returns how often Checkpoint and Discard were called.
func (e *Engine) Checkpoints() (checkpoints, discards int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.checkpoints, e.discards
}

// PowerCut ends all processes, like a failure of the machine.
func (e *Engine) PowerCut() {
	for _, id := range e.IDs() {
		e.end(id, "ended with the machine")
	}
}

// end ends the processes of a container. If the container has a checkpoint, Resume can restore it.
func (e *Engine) end(id sandbox.ID, detail string) {
	e.mu.Lock()
	c := e.containers[id]
	if c == nil || c.dead || c.suspended {
		e.mu.Unlock()
		return
	}
	old := c.guest
	if c.checkpoint == nil {
		c.dead, c.detail = true, detail
	} else {
		c.guest, c.suspended, c.asOf = e.newGuest(c.spec, *c.checkpoint), true, c.checkpointTime
	}
	e.mu.Unlock()
	old.kill()
}

// KillContainer kills a container, which can be suspended, so that it can't be resumed.
func (e *Engine) KillContainer(id sandbox.ID, detail string) {
	e.mu.Lock()
	c := e.containers[id]
	if c != nil {
		c.dead, c.detail = true, detail
	}
	e.mu.Unlock()
	if c != nil {
		e.guestOf(c).kill()
	}
}

// Lose removes a container without a call from the daemon, as another program could do.
func (e *Engine) Lose(id sandbox.ID) {
	e.mu.Lock()
	c := e.containers[id]
	delete(e.containers, id)
	e.mu.Unlock()
	c.guest.kill()
}

// Adopt adds a container of another engine. The manager on this engine has no record of it.
func (e *Engine) Adopt(other *Engine, id sandbox.ID) {
	other.mu.Lock()
	c := other.containers[id]
	other.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.containers[id] = c
}

// SetDown sets whether calls of the engine fail. While they fail, guests keep running, but connections to them are
// broken.
func (e *Engine) SetDown(down bool) {
	e.mu.Lock()
	e.down = down
	var guests []*Guest
	for _, c := range e.containers {
		guests = append(guests, c.guest)
	}
	e.mu.Unlock()
	for _, g := range guests {
		if down {
			g.BreakConnections()
		}
	}
}
