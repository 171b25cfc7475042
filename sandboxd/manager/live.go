package manager

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/delivery"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/lifecycle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// liveSandbox is a sandbox from the start of its creation until its container has been removed. The fields above
// mu are constant once the sandbox is in the registry, or are safe for concurrent use.
type liveSandbox struct {
	m        *Manager
	id       sandbox.ID
	owner    sandbox.Owner
	language sandbox.Language
	log      *slog.Logger

	life       *lifecycle.Machine // the state, and the users of the sandbox
	executions *delivery.Table    // executions whose end is not on record
	guest      *guest.Client      // client of the guest; opens connections when they are needed
	received   atomic.Int64       // number of successful reads from connections to the guest
	status     statusCache        // the latest status of the guest

	ctx   context.Context // cancelled when the sandbox is terminated or the manager is closed
	close context.CancelFunc

	creation *creation   // the creation of the sandbox; nil if an earlier daemon created it
	expiring atomic.Bool // expire is terminating the sandbox
	removing atomic.Bool // removeContainer is removing the container

	// mu guards the fields below. Once the sandbox is in the registry, they change only while both mu and the
	// sandbox's Transition are held. The exceptions are rec.UsedTime, usedStored and changed.
	mu          sync.Mutex
	rec         store.Sandbox // the record; like the one on disk, except that UsedTime can be newer
	usedStored  time.Time     // the UsedTime that was last passed to the store
	guestExpiry time.Time     // the expiry that the guest has; zero: unknown
	changed     bool          // the sandbox may have changed since its last checkpoint

	suspendBackoff, checkpointBackoff backoff // delays after a failed suspend and a failed checkpoint
}

// newSandbox returns the sandbox of a record, in the record's state.
func (m *Manager) newSandbox(rec store.Sandbox) *liveSandbox {
	s := &liveSandbox{
		m: m, id: rec.ID, owner: rec.Owner, language: rec.Language, log: m.log.With("sandbox", rec.ID),
		rec: rec, usedStored: rec.UsedTime, changed: rec.State != sandbox.Suspended,
	}
	s.life = lifecycle.New(stateOf(rec), s.startResume)
	s.executions = delivery.New(s.received.Load)
	s.ctx, s.close = context.WithCancel(m.ctx)
	s.guest = guest.NewClient(s.dial)
	context.AfterFunc(s.ctx, s.guest.Close)
	return s
}

// stateOf returns the state that a record describes.
func stateOf(rec store.Sandbox) lifecycle.State {
	switch rec.State {
	case sandbox.Running:
		return lifecycle.Running
	case sandbox.Suspended:
		return lifecycle.Suspended
	case sandbox.Terminated:
		return lifecycle.Terminated
	default:
		return lifecycle.Provisioning
	}
}

func (s *liveSandbox) dial(ctx context.Context) (net.Conn, error) {
	conn, err := s.m.engine.Dial(ctx, s.id)
	if err != nil {
		return nil, &dialError{err}
	}
	return &countedConn{conn, &s.received}, nil
}

// countedConn is a connection to the guest that counts successful reads.
type countedConn struct {
	net.Conn
	reads *atomic.Int64
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.reads.Add(1)
	}
	return n, err
}

// dialError wraps an engine's error from Dial. It has no Unwrap method, so that code that checks the kind of an
// error does not take the engine's error for an answer of the guest. diagnose determines the error that the
// client gets.
type dialError struct{ err error }

func (e *dialError) Error() string { return "dial the guest: " + e.err.Error() }

// isTerminated reports whether the end of the sandbox is on record.
func (s *liveSandbox) isTerminated() bool { return s.life.State() == lifecycle.Terminated }

func (s *liveSandbox) record() store.Sandbox {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rec
}

func (s *liveSandbox) expires() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rec.ExpireTime
}

// use sets the time of last use to the parameter now, unless a later time is set already.
func (s *liveSandbox) use(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.After(s.rec.UsedTime) {
		s.rec.UsedTime = now
	}
}

// markChanged records that the sandbox may have changed since its last checkpoint. The caller must have acquired
// the sandbox or hold its Transition, so that no checkpoint is made at the same time.
func (s *liveSandbox) markChanged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed = true
}

// clearChanged removes the mark that markChanged sets, and returns whether it was set. The caller must call it
// before it makes a checkpoint. If the checkpoint fails, the caller must set the mark again if it was set.
func (s *liveSandbox) clearChanged() (changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed, s.changed = s.changed, false
	return changed
}

// during runs fn while it holds the sandbox's Transition. It returns fn's error, or ctx.Err() if ctx ends while
// another goroutine holds the Transition.
func (s *liveSandbox) during(ctx context.Context, fn func(t *lifecycle.Transition) error) error {
	t, err := s.life.Begin(ctx)
	if err != nil {
		return err
	}
	defer t.End()
	return fn(t)
}

// acquire resumes the sandbox if it is suspended. The caller must call release. Until then, the manager does not
// suspend, checkpoint or fork the sandbox. The caller must not hold the Transition, because a resume needs it.
func (s *liveSandbox) acquire(ctx context.Context) (release func(), err error) {
	release, err = s.life.Acquire(ctx)
	if err != nil && ctx.Err() != nil && s.ctx.Err() != nil { // ctx may be s.ctx, which ended because the sandbox was terminated
		err = s.whyGone(ctx)
	}
	return release, err
}
