package server

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
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

// slots bound what is in flight at once, in total and for each token.
type slots struct {
	patience time.Duration // with others, before a request is refused
	all      chan struct{}
	each     int // zero: three quarters of all, so that there are some left for others; the operator's may have all

	mu     sync.Mutex
	byName map[string]chan struct{}
}

func newSlots(all, each int, patience time.Duration) *slots {
	return &slots{patience: patience, all: make(chan struct{}, all), each: each, byName: map[string]chan struct{}{}}
}

// acquire waits a moment for a slot. free gives it back. Names are those of tokens, so
// there are few.
func (s *slots) acquire(ctx context.Context, name string) (free func(), ok bool) {
	s.mu.Lock()
	own := s.byName[name]
	if own == nil {
		own = make(chan struct{}, s.most(name))
		s.byName[name] = own
	}
	s.mu.Unlock()
	timeout := time.NewTimer(s.patience)
	defer timeout.Stop()
	if !enter(ctx, own, timeout.C) {
		return nil, false
	}
	if !enter(ctx, s.all, timeout.C) {
		<-own
		return nil, false
	}
	return func() { <-s.all; <-own }, true
}

func (s *slots) most(name string) int {
	switch all := cap(s.all); {
	case s.each > 0:
		return s.each
	case name == OperatorToken:
		return all
	default:
		return max(1, all-all/4)
	}
}

func enter(ctx context.Context, slot chan struct{}, timeout <-chan time.Time) bool {
	select {
	case slot <- struct{}{}:
		return true
	default:
	}
	select {
	case slot <- struct{}{}:
		return true
	case <-timeout:
	case <-ctx.Done():
	}
	return false
}

func (s *slots) inUse() int { return len(s.all) }
