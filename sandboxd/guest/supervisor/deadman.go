//go:build linux

package supervisor

import (
	"sync/atomic"
	"time"
)

// deadman ends the sandbox when its time is over and nobody else did: a daemon that is gone leaves
// no orphans. It goes by the wall clock, because a sandbox may sleep on disk for days.
type deadman struct{ expires atomic.Int64 } // Unix seconds

const (
	expiryGrace = 60 * time.Second // for the daemon, which should be first
	expiryCheck = 5 * time.Second

	// A guest that did not look for restoreGap was on disk. It has restoreGrace to be told its expiry: what it was started from may
	// have had a much earlier one. restoreGap is less than expiryGrace, so that one that was on disk for a shorter time
	// has time as well.
	restoreGap   = 30 * time.Second
	restoreGrace = 2 * time.Minute
)

func (d *deadman) set(t time.Time) { d.expires.Store(t.Unix()) }

func (d *deadman) due(now time.Time) bool {
	return now.Unix() > d.expires.Load()+int64(expiryGrace/time.Second)
}

// watch returns when the time is over, and is still at the next look.
func (d *deadman) watch() {
	var l look
	for !l.over(d, time.Now()) {
		time.Sleep(expiryCheck)
	}
}

// look is what a deadman saw when it last looked.
type look struct {
	at, restored time.Time
	late         bool
}

// over looks, and reports whether the sandbox is to end.
func (l *look) over(d *deadman, now time.Time) bool {
	if !l.at.IsZero() && now.Sub(l.at) > restoreGap {
		l.restored = now
	}
	was := l.late
	l.at, l.late = now, d.due(now) && now.Sub(l.restored) > restoreGrace
	return was && l.late
}
