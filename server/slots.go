package server

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
)

// rates bound how often each token's bearer asks: so many times a second, and that many at once
// after a rest. Zero: as often as it wants.
type rates struct {
	each float64

	mu     sync.Mutex
	byName map[string]*rate.Limiter
}

// take returns zero, or how long to wait before asking again. Names are those of tokens, so there are few.
func (r *rates) take(name string) time.Duration {
	if r.each == 0 {
		return 0
	}
	r.mu.Lock()
	own := r.byName[name]
	if own == nil {
		own = rate.NewLimiter(rate.Limit(r.each), max(1, int(r.each)))
		r.byName[name] = own
	}
	r.mu.Unlock()
	turn := own.Reserve()
	wait := turn.Delay()
	if wait > 0 {
		turn.Cancel() // who is refused has not asked
	}
	return wait
}

// slots limit the requests that are in flight at once: in total, for each owner, and for all named owners together.
type slots struct {
	taken    *wire.Budget  // counts the slots that are in use
	patience time.Duration // how long a request waits for a slot
}

func newSlots(total int, patience time.Duration) *slots {
	return &slots{taken: wire.NewBudget(int64(total)), patience: patience}
}

// acquire waits up to s.patience for a slot. The caller must call free when the request has ended.
func (s *slots) acquire(ctx context.Context, owner sandbox.Owner) (free func(), ok bool) {
	if !s.taken.Wait(ctx, owner, 1, s.patience) {
		return nil, false
	}
	return func() { s.taken.Give(owner, 1) }, true
}

func (s *slots) inUse() int { return int(s.taken.Used()) }

// seat is the slot of one request. The request can exchange it for a slot among the waiting requests.
type seat struct {
	waits *slots
	owner sandbox.Owner

	mu     sync.Mutex
	free   func()
	waiter bool
}

// wait exchanges the slot for one in waits. It reports false, and keeps the slot, if none is free there.
func (s *seat) wait() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiter {
		return true
	}
	free, ok := s.waits.acquire(context.Background(), s.owner)
	if !ok {
		return false
	}
	s.free()
	s.free, s.waiter = free, true
	return true
}

func (s *seat) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free()
}
