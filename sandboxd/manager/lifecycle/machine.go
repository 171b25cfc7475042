package lifecycle

import (
	"context"
	"sync"
	"time"
)

// Machine is the state of one sandbox, and counts its users. It is safe for concurrent use.
//
// A user is a call or an execution that needs the sandbox. While a sandbox has a user, [Transition.Claim] refuses
// to suspend, checkpoint or fork it. Only the holder of the sandbox's [Transition] can change the state.
type Machine struct {
	startResume func(done func(error))
	token       chan struct{} // contains one value while no goroutine holds the Transition

	mu      sync.Mutex
	state   State
	version int           // incremented by each change of the state
	users   int           // users that have not released the sandbox yet
	used    time.Time     // when a user last released the sandbox, or when it last began to run; with a monotonic reading
	resume  *attempt      // the resume that users wait for, or nil
	changed chan struct{} // closed, and replaced, when the state changes or the last user releases the sandbox
}

// attempt is a resume that is under way. err is set before done is closed.
type attempt struct {
	done chan struct{}
	err  error
}

// New returns a machine in the given state, without users. [Machine.Acquire] calls startResume, without holding a
// lock, to resume the sandbox. startResume must return without waiting, and must call done once, when the sandbox is
// running or the resume has failed.
func New(state State, startResume func(done func(error))) *Machine {
	m := &Machine{startResume: startResume, token: make(chan struct{}, 1), state: state, used: time.Now(), changed: make(chan struct{})}
	m.token <- struct{}{}
	return m
}

// State returns the current state.
func (m *Machine) State() State {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

// Version returns the current state and a number that is different after each change of the state.
func (m *Machine) Version() (State, int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state, m.version
}

// Acquire makes the caller a user of the sandbox, and returns when the sandbox is running. If the sandbox is not
// running, the first of several concurrent callers starts a resume, and all of them wait for it. The resume
// continues if ctx ends. The caller must call release, which is idempotent, when it no longer uses the sandbox.
// After an error, which is ctx.Err() or the error of the resume, the caller is not a user, and release is nil.
func (m *Machine) Acquire(ctx context.Context) (release func(), err error) {
	release = m.Retain()
	for {
		wait, first := m.joinResume()
		if wait == nil {
			return release, nil
		}
		if first {
			m.startResume(func(err error) { m.resumed(wait, err) })
		}
		select {
		case <-wait.done:
			err = wait.err
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err != nil {
			release()
			return nil, err
		}
		// Look again: the state may have changed between the end of the resume and this moment.
	}
}

// joinResume returns the resume that a user must wait for, or nil if the sandbox is running. first is true if the
// caller must start that resume.
func (m *Machine) joinResume() (wait *attempt, first bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state == Running {
		return nil, false
	}
	if first = m.resume == nil; first {
		m.resume = &attempt{done: make(chan struct{})}
	}
	return m.resume, first
}

// resumed passes the result of a resume to the callers of Acquire that wait for it.
func (m *Machine) resumed(a *attempt, err error) {
	m.mu.Lock()
	m.resume = nil
	m.mu.Unlock()
	a.err = err
	close(a.done)
}

// TryAcquire is like [Machine.Acquire] for a caller that only observes the sandbox: it does not resume the
// sandbox, and release does not change the time of last use. ok is false if the sandbox is not running.
func (m *Machine) TryAcquire() (release func(), ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state != Running {
		return nil, false
	}
	m.users++
	return sync.OnceFunc(func() { m.release(false) }), true
}

// Retain adds a user without resuming the sandbox, in any state. An accepted execution is such a user until its end
// is on record. release is idempotent.
func (m *Machine) Retain() (release func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.users++
	return sync.OnceFunc(func() { m.release(true) })
}

func (m *Machine) release(use bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.users--
	if use {
		m.used = time.Now()
	}
	if m.users == 0 {
		m.signal()
	}
}

// signal notifies the goroutines that wait for a change. The caller must hold m.mu.
func (m *Machine) signal() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// Changed returns a channel that is closed when the state changes or the last user releases the sandbox.
func (m *Machine) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// IdleSince returns since when the sandbox has been idle: when a user last released it, or when it last began to
// run. A release by a caller of [Machine.TryAcquire] does not count. ok is false if the sandbox has a user or is
// not running.
func (m *Machine) IdleSince() (since time.Time, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used, m.idle(0)
}

// Idle reports whether the sandbox is running and has been idle, as defined for [Machine.IdleSince], for at least
// the given duration.
func (m *Machine) Idle(long time.Duration) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.idle(long)
}

// idle is like Idle. The caller must hold m.mu.
func (m *Machine) idle(long time.Duration) bool {
	return m.state == Running && m.users == 0 && time.Since(m.used) >= long
}
