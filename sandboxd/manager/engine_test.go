package manager_test

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

// testEngine is an engine that runs guests in the process of the test. Like a real engine, it outlives managers.
// mu guards all fields.
type testEngine struct {
	mu         sync.Mutex
	containers map[sandbox.ID]*testContainer
	down       bool
	creates    int
	created    chan struct{} // if not nil, Create waits until it is closed or its context ends
	fail       error         // the error that Create and Fork return

	suspends, resumes         int        // number of calls of Suspend and Resume
	failSuspend, failResume   error      // the errors that Suspend and Resume return
	suspendedAll              bool       // a suspend that fails with failSuspend suspends the sandbox nevertheless
	flaky                     *rand.Rand // if not nil, Suspend and Resume fail at random
	beforeFork                func(ctx context.Context)
	beforeSuspend, beforeWake func(ctx context.Context) // if not nil, called at the begin of Suspend and Resume
	checkpoints, discards     int                       // number of calls of Checkpoint and Discard
	failCheckpoint            error
	beforeCheckpoint          func(ctx context.Context)
	failAwaken                error // the error with which guests answer awakening requests
	stateBytes                int64 // size of each checkpoint
	info                      engine.Info
	crashAt                   string        // the name of the step at which the method step blocks
	crashing                  chan struct{} // closed when the step crashAt is reached
}

// step marks a point at which a test can kill the daemon. If name is e.crashAt, step blocks until ctx ends.
func (e *testEngine) step(ctx context.Context, name string) error {
	e.mu.Lock()
	here := name == e.crashAt
	if here {
		e.crashAt = ""
		close(e.crashing)
	}
	e.mu.Unlock()
	if here {
		<-ctx.Done()
	}
	return ctx.Err()
}

type testContainer struct {
	spec   engine.Spec
	guest  *testGuest
	dead   bool
	asleep bool
	saved  *testMemory // the checkpoint of a running sandbox
	at     time.Time   // when saved was made
	asOf   time.Time   // the time of the checkpoint that Resume will restore, if the container's processes have died; otherwise zero
	bytes  int64
	detail string
}

func newTestEngine() *testEngine {
	return &testEngine{containers: map[sandbox.ID]*testContainer{}, info: engine.Info{Name: "test", Runtime: "none", CPUs: 4, Memory: 8 << 30, Suspend: engine.ToDisk}}
}

func (e *testEngine) Info() engine.Info { return e.info }

// newGuest returns a guest that answers awakening requests with e.failAwaken.
func (e *testEngine) newGuest(m testMemory) *testGuest {
	g := newTestGuest(m)
	g.refuse = func(ctx context.Context) error {
		if err := e.step(ctx, "awaken"); err != nil {
			return err
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.failAwaken
	}
	return g
}

var errDown = errors.New("connection refused")

func (e *testEngine) Create(ctx context.Context, spec engine.Spec) error {
	e.mu.Lock()
	wait := e.created
	e.creates++
	err := e.fail
	if e.down {
		err = sandbox.Errorf(sandbox.Unavailable, "the test engine does not answer")
	}
	e.mu.Unlock()
	if err != nil {
		return err
	}
	if wait != nil {
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, c := range e.containers {
		if id == spec.ID || c.spec.UID == spec.UID {
			return fmt.Errorf("container %s is in the way", id)
		}
	}
	e.containers[spec.ID] = &testContainer{spec: spec, guest: e.newGuest(testMemory{expires: spec.Expires})}
	return nil
}

func (e *testEngine) Dial(ctx context.Context, id sandbox.ID) (net.Conn, error) {
	e.mu.Lock()
	c, down := e.containers[id], e.down
	gone := c == nil || c.dead || c.asleep
	e.mu.Unlock()
	switch {
	case down:
		return nil, errDown
	case gone:
		return nil, sandbox.Errorf(sandbox.NotFound, "no such container")
	}
	return c.in(e).dial(ctx)
}

// Suspend implements [engine.Suspender]. The guest keeps its state, but Dial fails.
func (e *testEngine) Suspend(ctx context.Context, id sandbox.ID) error {
	e.mu.Lock()
	e.suspends++
	before, err, all := e.beforeSuspend, e.failSuspend, e.suspendedAll
	if e.flaky != nil && e.flaky.IntN(8) == 0 {
		err, all = errDown, e.flaky.IntN(2) == 0
	}
	e.mu.Unlock()
	if before != nil {
		before(ctx)
	}
	if err := e.step(ctx, "suspend"); err != nil {
		return err
	}
	c := e.of(id)
	if c == nil || c.isDead(e) {
		return sandbox.Errorf(sandbox.NotFound, "no such container")
	}
	if err == nil || all {
		m := c.in(e).memory()
		e.mu.Lock()
		c.asleep, c.saved, c.at, c.bytes = true, &m, time.Now(), e.stateBytes
		e.mu.Unlock()
		c.in(e).cut()
		if err := e.step(ctx, "suspended"); err != nil {
			return err
		}
	}
	return err
}

// Resume implements [engine.Suspender].
func (e *testEngine) Resume(ctx context.Context, id sandbox.ID) error {
	if err := e.step(ctx, "resume"); err != nil {
		return err
	}
	if err := e.wake(ctx, id); err != nil {
		return err
	}
	return e.step(ctx, "resumed")
}

func (e *testEngine) wake(ctx context.Context, id sandbox.ID) error {
	e.mu.Lock()
	before := e.beforeWake
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
	case e.down, e.flaky != nil && e.flaky.IntN(8) == 0:
		return errDown
	case e.failResume != nil:
		return e.failResume
	case c == nil || c.dead:
		return sandbox.Errorf(sandbox.NotFound, "no such container")
	}
	c.asleep, c.asOf = false, time.Time{}
	return nil
}

// Checkpoint implements [engine.Checkpointer].
func (e *testEngine) Checkpoint(ctx context.Context, id sandbox.ID) (err error) {
	e.mu.Lock()
	e.checkpoints++
	before := e.beforeCheckpoint
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
	c := e.of(id)
	if c == nil || c.isDead(e) {
		return sandbox.Errorf(sandbox.NotFound, "no such container")
	}
	g := c.in(e)
	g.cut()
	m := g.memory()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failCheckpoint != nil {
		return e.failCheckpoint
	}
	c.saved, c.at, c.bytes = &m, time.Now(), e.stateBytes
	return nil
}

// Discard implements [engine.Checkpointer].
func (e *testEngine) Discard(_ context.Context, id sandbox.ID) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.discards++
	if c := e.containers[id]; c != nil && !c.asleep {
		c.saved, c.bytes = nil, 0
	}
	return nil
}

// powerCut ends all processes, like a failure of the machine.
func (e *testEngine) powerCut() {
	for _, id := range e.ids() {
		e.mu.Lock()
		c := e.containers[id]
		if c == nil || c.dead || c.asleep {
			e.mu.Unlock()
			continue
		}
		old := c.guest
		if c.saved == nil {
			c.dead, c.detail = true, "ended with the machine"
		} else {
			c.guest, c.asleep, c.asOf = e.newGuest(*c.saved), true, c.at
		}
		e.mu.Unlock()
		old.kill()
	}
}

// Fork implements [engine.Forker].
func (e *testEngine) Fork(ctx context.Context, from, to sandbox.ID) error {
	e.mu.Lock()
	before, err, c := e.beforeFork, e.fail, e.containers[from]
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
	if c == nil || c.isDead(e) {
		return sandbox.Errorf(sandbox.NotFound, "there is no running sandbox %q here", from)
	}
	spec := c.spec
	spec.ID = to
	g := e.newGuest(c.in(e).memory())
	c.in(e).cut()
	e.mu.Lock()
	e.containers[to] = &testContainer{spec: spec, guest: g}
	e.mu.Unlock()
	return e.step(ctx, "forked")
}

// in returns the guest that the container has now.
func (c *testContainer) in(e *testEngine) *testGuest {
	e.mu.Lock()
	defer e.mu.Unlock()
	return c.guest
}

func (c *testContainer) isDead(e *testEngine) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return c.dead
}

// count returns how often sandboxes were suspended and resumed.
func (e *testEngine) count() (suspends, resumes int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.suspends, e.resumes
}

// set calls fn with e.mu held, to change the behaviour of the engine.
func (e *testEngine) set(fn func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fn()
}

func (e *testEngine) Remove(_ context.Context, id sandbox.ID) error {
	e.mu.Lock()
	c, down := e.containers[id], e.down
	if !down {
		delete(e.containers, id)
	}
	e.mu.Unlock()
	if down {
		return errDown
	}
	if c != nil {
		c.in(e).kill()
	}
	return nil
}

func (e *testEngine) List(context.Context) ([]engine.Container, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.down {
		return nil, errDown
	}
	var all []engine.Container
	for id, c := range e.containers {
		all = append(all, engine.Container{ID: id, Running: !c.dead && !c.asleep, Suspended: c.asleep && !c.dead, AsOf: c.asOf, StateBytes: c.bytes, Detail: c.detail})
	}
	return all, nil
}

func (e *testEngine) Close() error {
	for _, id := range e.ids() {
		_ = e.Remove(context.Background(), id)
	}
	return nil
}

func (e *testEngine) ids() []sandbox.ID {
	e.mu.Lock()
	defer e.mu.Unlock()
	ids := []sandbox.ID{}
	for id := range e.containers {
		ids = append(ids, id)
	}
	return ids
}

// asked returns how often Create was called.
func (e *testEngine) asked() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.creates
}

func (e *testEngine) of(id sandbox.ID) *testContainer {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.containers[id]
}

// die ends a container without a request from the manager.
func (e *testEngine) die(id sandbox.ID, detail string) {
	c := e.of(id)
	if c == nil {
		return
	}
	e.mu.Lock()
	c.dead, c.detail = true, detail
	e.mu.Unlock()
	c.in(e).kill()
}

// setDown sets whether calls of the engine fail. While they fail, guests keep running, but connections to them
// break.
func (e *testEngine) setDown(down bool) {
	e.mu.Lock()
	e.down = down
	var guests []*testGuest
	for _, c := range e.containers {
		guests = append(guests, c.guest)
	}
	e.mu.Unlock()
	for _, g := range guests {
		if down {
			g.cut()
		}
	}
}

// told returns the expiry that a guest has.
func (e *testEngine) told(id sandbox.ID) time.Time {
	g := e.of(id).in(e)
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.expires
}
