package server

import (
	"context"
	"sync"
	"time"
)

// slots bound what is in flight at once, in total and for each token.
type slots struct {
	patience time.Duration // with others, before a request is refused
	all      chan struct{}
	each     int

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
		own = make(chan struct{}, s.each)
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
