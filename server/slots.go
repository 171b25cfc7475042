package server

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
)

// rates limits how many requests a second each token may make. A token that has made no requests for a second may make the
// requests of one second at once.
type rates struct {
	perSecond float64 // requests a second for each token; zero: no limit

	mu     sync.Mutex
	byName map[string]*rate.Limiter
}

// take counts a request of the token with this name and returns zero. If the token has exceeded its rate, take does not
// count the request and returns how long the client must wait. The caller must have checked that the token is valid, so that
// r.byName stays small.
func (r *rates) take(name string) time.Duration {
	if r.perSecond == 0 {
		return 0
	}
	r.mu.Lock()
	own := r.byName[name]
	if own == nil {
		own = rate.NewLimiter(rate.Limit(r.perSecond), max(1, int(r.perSecond)))
		r.byName[name] = own
	}
	r.mu.Unlock()
	turn := own.Reserve()
	wait := turn.Delay()
	if wait > 0 {
		turn.Cancel() // a refused request does not count
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

// acquire waits up to s.patience for a slot, and reports false if it gets none. The caller must call free when the request
// has ended.
func (s *slots) acquire(ctx context.Context, owner sandbox.Owner) (free func(), ok bool) {
	if !s.taken.Wait(ctx, owner, 1, s.patience) {
		return nil, false
	}
	return func() { s.taken.Give(owner, 1) }, true
}

func (s *slots) inUse() int { return int(s.taken.Used()) }

// workPatience is how long a request waits for a slot in requestSlot.work after it has waited for an execution.
const workPatience = 20 * time.Second

// requestSlot is the slot of one request: one in work, or, while the request waits for an execution, one in waits.
type requestSlot struct {
	work, waits *slots
	owner       sandbox.Owner

	mu     sync.Mutex
	free   func() // nil: the request holds no slot
	waiter bool
}

// newRequestSlot waits for a slot in work, and reports false if it gets none in time. The caller must call leave when the
// request has ended.
func newRequestSlot(ctx context.Context, work, waits *slots, owner sandbox.Owner) (*requestSlot, bool) {
	free, ok := work.acquire(ctx, owner)
	return &requestSlot{work: work, waits: waits, owner: owner, free: free}, ok
}

// wait exchanges the request's slot in s.work for a slot in s.waits. If s.waits has no free slot, wait returns false and
// the request keeps its slot in s.work.
func (s *requestSlot) wait() bool { return s.exchange(context.Background(), s.waits, true) }

// resume exchanges the slot in waits for one in work, for which it waits at most workPatience. It reports false, and keeps
// the slot in waits, if it gets none in time.
func (s *requestSlot) resume(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, workPatience)
	defer cancel()
	return s.exchange(ctx, s.work, false)
}

func (s *requestSlot) exchange(ctx context.Context, to *slots, waiter bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.free == nil || s.waiter == waiter {
		return s.free != nil
	}
	free, ok := to.acquire(ctx, s.owner)
	if !ok {
		return false
	}
	s.free()
	s.free, s.waiter = free, waiter
	return true
}

func (s *requestSlot) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.free != nil {
		s.free()
		s.free = nil
	}
}
