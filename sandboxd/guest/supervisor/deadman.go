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
)

func (d *deadman) set(t time.Time) { d.expires.Store(t.Unix()) }

func (d *deadman) due(now time.Time) bool {
	return now.Unix() > d.expires.Load()+int64(expiryGrace/time.Second)
}

// watch returns when the time is over, and is still at the next look: a guest that was just restored from disk
// is about to be told when its time is over by now.
func (d *deadman) watch() {
	for late := false; ; time.Sleep(expiryCheck) {
		was := late
		if late = d.due(time.Now()); late && was {
			return
		}
	}
}
