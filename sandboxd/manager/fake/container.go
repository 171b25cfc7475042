package fake

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// container is one container of an [Engine]. Engine.mu guards its fields.
type container struct {
	spec           engine.Spec
	guest          *Guest
	dead           bool
	suspended      bool
	checkpoint     *memory   // the last checkpoint, or nil if there is none
	checkpointTime time.Time // when checkpoint was made
	asOf           time.Time // the time of the checkpoint that Resume will restore, if the container's processes have died; otherwise zero
	bytes          int64
	detail         string
}

// newGuest returns a guest for a container with this spec. The guest answers a report of a restore with the error
// e.FailRestore, if it is set.
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

// guestOf returns the guest that a container has now. It also works for a container that the engine no longer lists.
func (e *Engine) guestOf(c *container) *Guest {
	e.mu.Lock()
	defer e.mu.Unlock()
	return c.guest
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

// PowerCut ends all processes, like a failure of the machine.
func (e *Engine) PowerCut() {
	for _, id := range e.IDs() {
		e.end(id, "ended with the machine")
	}
}

// KillContainer kills a running or suspended container. Resume cannot restore it afterwards.
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
