package manager

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// box is a running or suspended sandbox. The manager keeps it in Manager.boxes until the sandbox is terminated.
// Fields above life do not change after newBox, except for the atomic counters.
type box struct {
	id       sandbox.ID
	owner    sandbox.Owner
	language sandbox.Language
	log      *slog.Logger
	guest    *guest.Client // client of the guest; opens connections when they are needed

	ctx   context.Context // cancelled when the sandbox is terminated or the manager is closed
	close context.CancelFunc

	open, dials atomic.Int64 // number of connections to the guest: open now, and opened so far
	heard       atomic.Int64 // number of successful reads from connections to the guest

	// life is the lock for transitions of the sandbox, such as suspending or terminating it. It contains one
	// value while no goroutine holds it. Use change or tryChange to take it. Once the box is in Manager.boxes
	// and Start has begun its background work, rec (except UsedTime), told and ended change only while both
	// life and mu are held.
	life chan struct{}
	last look // the latest status of the guest; has its own lock

	// mu guards the fields below, including those of rest.
	mu       sync.Mutex
	rec      store.Sandbox // the record; like the one on disk, except that UsedTime can be newer
	stored   time.Time     // the UsedTime that was last passed to the store
	told     time.Time     // the expiry that the guest has; zero: unknown
	ended    bool
	expiring bool // a goroutine of expireDue is terminating the sandbox
	rest
	pending map[sandbox.ExecutionID]*pending
	// followed contains the queue of each language's watcher, oldest execution first. A watcher runs while its
	// queue exists.
	followed map[sandbox.Language][]sandbox.ExecutionID
}

func (m *Manager) newBox(rec store.Sandbox) *box {
	b := &box{
		id: rec.ID, owner: rec.Owner, language: rec.Language, log: m.Logger.With("sandbox", rec.ID),
		life: make(chan struct{}, 1),
		rec:  rec, stored: rec.UsedTime,
		pending:  map[sandbox.ExecutionID]*pending{},
		followed: map[sandbox.Language][]sandbox.ExecutionID{},
		rest: rest{
			asleep: rec.State == sandbox.Suspended, room: rec.State != sandbox.Suspended, work: rec.State != sandbox.Suspended,
			active: time.Now(),
		},
	}
	b.life <- struct{}{}
	b.ctx, b.close = context.WithCancel(m.ctx)
	b.guest = guest.NewClient(func(ctx context.Context) (net.Conn, error) { return m.dial(ctx, b) })
	context.AfterFunc(b.ctx, b.guest.Close)
	return b
}

func (m *Manager) dial(ctx context.Context, b *box) (net.Conn, error) {
	conn, err := m.Engine.Dial(ctx, b.id)
	if err != nil {
		return nil, &dialError{err}
	}
	b.dials.Add(1)
	b.open.Add(1)
	return &stream{Conn: conn, end: sync.OnceFunc(func() { b.open.Add(-1) }), read: func() { b.heard.Add(1) }}, nil
}

// stream is a connection to the guest that calls read after each successful read, and end when a read fails or
// the connection is closed. It can call end more than once.
type stream struct {
	net.Conn
	read, end func()
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if n > 0 {
		s.read()
	}
	if err != nil {
		s.end()
	}
	return n, err
}

func (s *stream) Close() error {
	s.end()
	return s.Conn.Close()
}

// reach starts observing the connections. The function that it returns reports whether a connection to the guest
// existed at any time since the call of reach, so that a request may have reached the guest.
func (b *box) reach() (reached func() bool) {
	open, dials := b.open.Load() > 0, b.dials.Load()
	return func() bool { return open || b.dials.Load() != dials }
}

// hear starts observing reads. The function that it returns reports whether any bytes have been received from
// the guest since the call of hear.
func (b *box) hear() (heard func() bool) {
	before := b.heard.Load()
	return func() bool { return b.heard.Load() != before }
}

// dialError wraps an engine's error from Dial. It has no Unwrap method, so that code that checks the kind of an
// error does not take the engine's error for an answer of the guest. diagnose determines the error that the
// client gets.
type dialError struct{ err error }

func (e *dialError) Error() string { return "dial the guest: " + e.err.Error() }

func (b *box) record() store.Sandbox {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rec
}

func (b *box) expires() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rec.ExpireTime
}

// use sets the time of last use to the parameter now, unless a later time is set already.
func (b *box) use(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if now.After(b.rec.UsedTime) {
		b.rec.UsedTime = now
	}
}

// change takes b.life, runs fn and releases b.life. It returns fn's error, or ctx.Err() if ctx ends before
// b.life is free. The caller must not hold b.life or b.mu.
func (b *box) change(ctx context.Context, fn func() error) error {
	select {
	case <-b.life:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { b.life <- struct{}{} }()
	return fn()
}

// tryChange is like change, but returns without running fn if b.life is held.
func (b *box) tryChange(fn func()) {
	select {
	case <-b.life:
	default:
		return
	}
	defer func() { b.life <- struct{}{} }()
	fn()
}

// ending reports whether the caller may terminate the expired sandbox. It returns true to only one caller at a
// time. After true, the caller must call notEnding when its attempt has ended.
func (b *box) ending() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	claimed := !b.expiring
	b.expiring = true
	return claimed
}

func (b *box) notEnding() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.expiring = false
}

// storeUsed queues a write of the times of last use that have changed since the previous call.
func (m *Manager) storeUsed() {
	m.mu.Lock()
	boxes := m.allBoxes()
	m.mu.Unlock()
	used := map[sandbox.ID]time.Time{}
	for _, b := range boxes {
		b.mu.Lock()
		if b.rec.UsedTime.After(b.stored) {
			b.stored = b.rec.UsedTime
			used[b.id] = b.stored
		}
		b.mu.Unlock()
	}
	m.Store.SetUsed(used)
}
