package manager

import "time"

// clockCheck is the longest time between two readings of the wall clock while sandboxes exist, because timers
// do not notice when the system clock is changed.
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
		if next, any := m.expireDue(); any {
			timer.Reset(min(next, clockCheck))
		} else {
			timer.Stop()
		}
	}
}

// expireDue terminates expired sandboxes in the background and returns the time until the next expiry. any is
// false if there is no further expiry to wait for.
func (m *Manager) expireDue() (next time.Duration, any bool) {
	now := m.now()
	m.mu.Lock()
	boxes := m.allBoxes()
	m.mu.Unlock()
	for _, b := range boxes {
		left := b.expires().Sub(now)
		if left > 0 {
			if !any || left < next {
				next, any = left, true
			}
			continue
		}
		if !b.ending() {
			continue
		}
		m.spawn(func() {
			defer b.notEnding()
			if err := m.endExpired(m.ctx, b); err != nil && m.ctx.Err() == nil {
				b.log.Error("a sandbox could not be ended yet", "error", err)
			}
		})
		if !any {
			next, any = clockCheck, true // check then whether the sandbox was terminated
		}
	}
	return next, any
}
