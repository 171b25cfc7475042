package manager

import "time"

// clockCheck is how often the wall clock is looked at while sandboxes run: timers do not
// notice when it is set.
const clockCheck = 10 * time.Second

// expiryMoved has the expire loop look again.
func (m *Manager) expiryMoved() {
	select {
	case m.expiryChanged <- struct{}{}:
	default:
	}
}

// expireLoop ends each sandbox when its time is over by the wall clock. A clock that is
// set back lengthens lives, and ends none.
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

// expireDue ends what is due, and says how long it is until the next one is.
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
			next, any = clockCheck, true // to see that it went
		}
	}
	return next, any
}
