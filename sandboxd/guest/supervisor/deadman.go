//go:build linux

package supervisor

import (
	"sync/atomic"
	"time"
)

// deadman ends an expired sandbox if the daemon does not, so that no sandboxes are left behind if the daemon is gone.
// deadman uses the wall clock, because a sandbox may be suspended for days.
type deadman struct{ expires atomic.Int64 } // the expiry in Unix seconds

const (
	expiryGrace = 60 * time.Second // how long after the expiry the guest waits, because the daemon should end the sandbox first
	expiryCheck = 5 * time.Second  // time between two checks

	// If more than restoreGap has passed between two checks, the guest was restored from disk. The daemon then has
	// restoreGrace to send the current expiry: the checkpoint or snapshot from which the guest was restored may contain
	// a much earlier one. restoreGap is shorter than expiryGrace, so that the daemon also has time if the guest was on
	// disk for less than restoreGap.
	restoreGap   = 30 * time.Second
	restoreGrace = 2 * time.Minute
)

func (d *deadman) set(t time.Time) { d.expires.Store(t.Unix()) }

func (d *deadman) due(now time.Time) bool {
	return now.Unix() > d.expires.Load()+int64(expiryGrace/time.Second)
}

// watch returns when two consecutive checks have found that the sandbox has expired.
func (d *deadman) watch() {
	var c expiryChecks
	for !c.check(d, time.Now()) {
		time.Sleep(expiryCheck)
	}
}

// expiryChecks is the state of a deadman's checks.
type expiryChecks struct {
	at, restored time.Time // when the last check was made, and when a check last found that the guest had been restored
	late         bool      // the last check found that the sandbox had expired
}

// check makes a check and reports whether the sandbox must end.
func (c *expiryChecks) check(d *deadman, now time.Time) bool {
	if !c.at.IsZero() && now.Sub(c.at) > restoreGap {
		c.restored = now
	}
	wasLate := c.late
	c.at, c.late = now, d.due(now) && now.Sub(c.restored) > restoreGrace
	return wasLate && c.late
}
