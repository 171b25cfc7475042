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

// box is a sandbox that runs or sleeps, as the manager holds it.
type box struct {
	id       sandbox.ID
	owner    sandbox.Owner
	language sandbox.Language
	log      *slog.Logger
	guest    *guest.Client // dials when it is first used

	ctx   context.Context // ends with the sandbox, or with the manager
	close context.CancelFunc

	open, dials atomic.Int64 // connections to the guest, now and ever
	heard       atomic.Int64 // how often anything was read from them

	life chan struct{} // holds one value while nobody is changing its life
	last look          // at the guest's status

	mu       sync.Mutex
	rec      store.Sandbox // as it is on disk, but UsedTime is newer
	stored   time.Time     // the UsedTime on disk
	told     time.Time     // the expiry that the guest knows; zero: not known
	ended    bool
	expiring bool // somebody is ending it
	rest
	pending  map[sandbox.ExecutionID]*pending
	followed map[sandbox.Language][]sandbox.ExecutionID // oldest first; not empty: a watcher is at it
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

// stream is a connection that says when it is of no use any more.
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

// reach returns what reports later whether anything can have reached the guest meanwhile.
func (b *box) reach() (reached func() bool) {
	open, dials := b.open.Load() > 0, b.dials.Load()
	return func() bool { return open || b.dials.Load() != dials }
}

// hear returns what reports later whether anything at all was heard of the guest meanwhile.
func (b *box) hear() (heard func() bool) {
	before := b.heard.Load()
	return func() bool { return b.heard.Load() != before }
}

// dialError is the engine's, and hides its kind: that a guest cannot be reached is
// for the manager to explain.
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

// use notes that somebody wants something of the sandbox.
func (b *box) use(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if now.After(b.rec.UsedTime) {
		b.rec.UsedTime = now
	}
}

// change runs fn while nobody else changes the sandbox's life.
func (b *box) change(ctx context.Context, fn func() error) error {
	select {
	case <-b.life:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { b.life <- struct{}{} }()
	return fn()
}

// tryChange is change if nobody changes the sandbox's life right now: it does not wait.
func (b *box) tryChange(fn func()) {
	select {
	case <-b.life:
	default:
		return
	}
	defer func() { b.life <- struct{}{} }()
	fn()
}

// ending claims the ending of an expired sandbox for one, and notEnding gives it back.
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

// storeUsed writes down, soon, which sandboxes were used since the last time.
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
