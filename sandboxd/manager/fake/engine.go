// Package fake contains an engine and a guest that run in the process of a test. The tests of package manager use them
// in place of containers. The engine passes the conformance suite (enginetest), so it behaves as the manager can expect
// of a real engine.
//
//   - engine.go: [Engine] and the calls that a manager makes. A test can make these calls fail or wait, block one at a step,
//     and count them.
//   - container.go: the containers. They outlive a manager, like those of a real engine. A test can read their state,
//     kill them and remove them.
//   - guest.go: [Guest], which implements the guest's protocol, with a kernel that runs a few statements.
//   - probe.go: the requests that the conformance suite sends to its own guest.
package fake

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
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
	Suspension engine.Suspension // how the engine suspends sandboxes, which Info reports
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

// ErrDown is the error of Dial, Resume, Remove and List while the engine does not answer (see [Engine.SetDown]).
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

// SetDown sets whether Create, Dial, Resume, Remove and List fail, as if the engine did not answer. While they
// fail, guests keep running, but connections to them are broken.
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
