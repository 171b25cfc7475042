package manager

import "time"

// clockCheck is the longest time between two readings of the wall clock while sandboxes exist. Timers alone are not
// enough, because they do not react to a change of the system clock.
const clockCheck = 10 * time.Second

// expiryMoved makes expireLoop look for the next expiry again, because an expiry has changed or has been
// reached. It does not block.
func (m *Manager) expiryMoved() {
	select {
	case m.expiryChanged <- struct{}{}:
	default:
	}
}

// expireLoop terminates each sandbox when the wall clock reaches its expiry. If the system clock is set back,
// sandboxes expire correspondingly later.
func (m *Manager) expireLoop() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-m.expiryChanged:
		case <-m.ctx.Done():
			return
		}
		if next, pending := m.expireDue(); pending {
			timer.Reset(min(next, clockCheck))
		} else {
			timer.Stop()
		}
	}
}

// expireDue terminates expired sandboxes in the background and returns the time until the next expiry. pending is
// false if there is no further expiry to wait for.
func (m *Manager) expireDue() (next time.Duration, pending bool) {
	now := m.now()
	for _, s := range m.registry.list(isCreated) {
		left := s.expires().Sub(now)
		if left <= 0 {
			m.spawn(s.expire)
			left = clockCheck // try again after this time if the sandbox could not be terminated
		}
		if !pending || left < next {
			next, pending = left, true
		}
	}
	return next, pending
}

// expire terminates an expired sandbox. It does nothing if another call of expire is terminating the sandbox.
func (s *liveSandbox) expire() {
	if !s.expiring.CompareAndSwap(false, true) {
		return
	}
	defer s.expiring.Store(false)
	if err := s.terminateExpired(s.m.ctx); err != nil && s.m.ctx.Err() == nil {
		s.log.Error("an expired sandbox could not be terminated; it is tried again", "error", err)
	}
}
