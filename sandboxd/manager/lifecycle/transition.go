package lifecycle

import (
	"context"
	"fmt"
	"time"
)

// Transition is the exclusive right to change the state of one sandbox. A function that needs this right takes a
// *Transition, so that the compiler checks that its callers have it. A goroutine that holds the Transition of one
// sandbox must not wait for that of another, because two sandboxes could then wait for each other; it may use
// [Machine.TryBegin]. The goroutine that creates a sandbox is an exception: it may wait for the Transition of
// another sandbox, because no goroutine that holds another Transition waits for that of a sandbox that is being
// created.
type Transition struct{ m *Machine }

// Begin waits until no other goroutine holds the sandbox's Transition, and returns it. The caller must call
// [Transition.End]. Begin returns ctx.Err() if ctx ends first.
func (m *Machine) Begin(ctx context.Context) (*Transition, error) {
	select {
	case <-m.token:
		return &Transition{m}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TryBegin is like [Machine.Begin], but does not wait. ok is false if another goroutine holds the Transition.
func (m *Machine) TryBegin() (t *Transition, ok bool) {
	select {
	case <-m.token:
		return &Transition{m}, true
	default:
		return nil, false
	}
}

// End releases the Transition. It panics if the Transition was already released.
func (t *Transition) End() {
	m := t.machine()
	t.m = nil
	m.token <- struct{}{}
}

// State returns the current state. It does not change while the caller holds the Transition.
func (t *Transition) State() State { return t.machine().State() }

// To changes the state. It panics if the table of states does not allow the change, because that is a bug of the
// caller.
func (t *Transition) To(s State) {
	m := t.machine()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.to(s)
}

// Claim changes the state of a running sandbox to s, which is Suspending, Checkpointing or Forking, if the sandbox
// has been idle for at least the given duration. It reports whether it did. Until the state is Running again, no
// call can acquire the sandbox.
func (t *Transition) Claim(s State, idle time.Duration) bool {
	m := t.machine()
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.idle(idle) {
		return false
	}
	m.to(s)
	return true
}

// machine returns the machine that t belongs to. It panics if t was released.
func (t *Transition) machine() *Machine {
	if t.m == nil {
		panic("lifecycle: a transition is used after its end")
	}
	return t.m
}

// to changes the state. The caller must hold m.mu.
func (m *Machine) to(s State) {
	if !m.state.CanBecome(s) {
		panic(fmt.Sprintf("lifecycle: a sandbox cannot become %s while it is %s", s, m.state))
	}
	if s == Running && (m.state == Provisioning || m.state == Resuming) {
		m.used = time.Now() // the end of a creation or a resume counts as use, but not that of a checkpoint or a fork
	}
	m.state = s
	m.version++
	m.signal()
}
