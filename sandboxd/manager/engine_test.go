package manager_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// testEngine runs guests in this process. It outlives managers, as an engine does.
type testEngine struct {
	mu         sync.Mutex
	containers map[sandbox.ID]*testContainer
	down       bool
	creates    int
	created    chan struct{} // not nil: Create waits for it to be closed, or for its context
	fail       error         // Create's
}

type testContainer struct {
	spec   engine.Spec
	guest  *testGuest
	dead   bool
	detail string
}

func newTestEngine() *testEngine { return &testEngine{containers: map[sandbox.ID]*testContainer{}} }

func (e *testEngine) Info() engine.Info {
	return engine.Info{Name: "test", Runtime: "none", CPUs: 4, Memory: 8 << 30}
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
	e.containers[spec.ID] = &testContainer{spec: spec, guest: newTestGuest(spec.Expires)}
	return nil
}

func (e *testEngine) Dial(ctx context.Context, id sandbox.ID) (net.Conn, error) {
	e.mu.Lock()
	c, down := e.containers[id], e.down
	gone := c == nil || c.dead
	e.mu.Unlock()
	switch {
	case down:
		return nil, errDown
	case gone:
		return nil, sandbox.Errorf(sandbox.NotFound, "no such container")
	}
	return c.guest.dial(ctx)
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
		c.guest.kill()
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
		all = append(all, engine.Container{ID: id, Running: !c.dead, Detail: c.detail})
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

// asked is how often Create was called.
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

// die ends a container from outside.
func (e *testEngine) die(id sandbox.ID, detail string) {
	c := e.of(id)
	if c == nil {
		return
	}
	e.mu.Lock()
	c.dead, c.detail = true, detail
	e.mu.Unlock()
	c.guest.kill()
}

// setDown makes the engine answer nothing, or again. Guests live on; connections through it break.
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

// told is the expiry that a guest knows.
func (e *testEngine) told(id sandbox.ID) time.Time {
	g := e.of(id).guest
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.expires
}
