// Package capacity counts the running sandboxes of a daemon, the sum of their memory limits and the sandboxes of each
// owner, and compares these with the limits. It also assigns uids. It does no I/O.
//
// A sandbox is in the [Ledger] from the time its creation begins until its container has been removed. It counts
// towards the limits on running sandboxes unless it is suspended to disk.
package capacity

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Limits are the limits of a daemon. Zero means no limit.
type Limits struct {
	Sandboxes int   // how many sandboxes may run at the same time
	Memory    int64 // sum of the memory limits of the running sandboxes, in bytes
	PerOwner  int   // how many sandboxes each owner except the operator may have, running or suspended
	// Paused is true if the engine suspends a sandbox only by pausing it. Suspended sandboxes then count as running.
	Paused bool
	// DiskFull is true if checkpoints use all the disk space that the daemon allows. Idle sandboxes are then not
	// suspended, and errors mention this.
	DiskFull bool
}

// Use is the capacity that one sandbox uses.
type Use struct {
	Owner  sandbox.Owner
	Memory int64 // memory limit, in bytes
	UID    int   // uid of its kernels
}

// Ledger contains the [Use] of each sandbox. The zero value is an empty ledger. It is safe for concurrent use.
type Ledger struct {
	mu  sync.Mutex
	all map[sandbox.ID]*entry
}

type entry struct {
	Use
	running bool
}

// ErrQuota is the cause of the error for an owner who has reached Limits.PerOwner. Suspending sandboxes does not
// help then, because suspended sandboxes count too.
var ErrQuota = errors.New("the owner has as many sandboxes as allowed")

// Uids of kernels. A uid is assigned at random, so that a uid that was just released is not the next one to be
// assigned. SharedUID is the uid of all sandboxes of an engine with snapshots, because the files of a snapshot
// belong to that uid. That is safe: on these engines each sandbox has an operating-system kernel of its own, so
// uids have no meaning outside of the sandbox. The store's unique index on uids exempts SharedUID.
const (
	firstUID  = 200_000
	lastUID   = 1_200_000
	SharedUID = firstUID - 1
)

// Add adds a sandbox, even if that exceeds the limits. It is for sandboxes that an earlier daemon has created.
func (l *Ledger) Add(id sandbox.ID, u Use, running bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.put(id, &entry{u, running})
}

// Reserve adds a sandbox that is to be created, if the limits allow it, and returns its uid: u.UID, or a free one
// if u.UID is 0. The error is of kind limit. Its message is for the client.
func (l *Ledger) Reserve(id sandbox.ID, u Use, limits Limits) (uid int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.checkQuota(u.Owner, limits); err != nil {
		return 0, err
	}
	if reason := l.full(u.Memory, limits); reason != "" {
		less := ""
		if l.full(sandbox.MinMemoryMB*sandbox.MiB, limits) == "" {
			less = ", or request less memory_mb"
		}
		return 0, sandbox.Errorf(sandbox.Limit, "%s: delete a sandbox that is not needed, or wait until one expires%s", reason, less)
	}
	if u.UID == 0 {
		u.UID = l.freeUID()
	}
	l.put(id, &entry{u, true})
	return u.UID, nil
}

// Resume counts a suspended sandbox as running again, if the limits allow it. Otherwise it returns the reason,
// as a clause. It does nothing if the sandbox counts as running already.
func (l *Ledger) Resume(id sandbox.ID, limits Limits) (reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.all[id]
	if e == nil || e.running {
		return ""
	}
	if !limits.Paused {
		if reason := l.full(e.Memory, limits); reason != "" {
			return reason
		}
	}
	e.running = true
	return ""
}

// SetRunning records whether a sandbox runs, even if that exceeds the limits.
func (l *Ledger) SetRunning(id sandbox.ID, running bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.all[id]; e != nil {
		e.running = running
	}
}

// Remove removes a sandbox whose container does not exist any more.
func (l *Ledger) Remove(id sandbox.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.all, id)
}

// put adds an entry. The caller must hold l.mu.
func (l *Ledger) put(id sandbox.ID, e *entry) {
	if l.all == nil {
		l.all = map[sandbox.ID]*entry{}
	}
	l.all[id] = e
}

// full returns the reason why another sandbox with this memory limit cannot run now, or "". The caller must hold
// l.mu.
func (l *Ledger) full(memory int64, limits Limits) string {
	count := 0
	for _, e := range l.all {
		if e.running || limits.Paused {
			count++
			memory += e.Memory
		}
	}
	note := ""
	if limits.DiskFull {
		note = "; idle sandboxes are not suspended to disk, because checkpoints use all the disk space that they may (--max-disk)"
	}
	switch {
	case limits.Sandboxes > 0 && count >= limits.Sandboxes:
		return fmt.Sprintf("%d sandboxes are running, which is the limit of this daemon (--max-sandboxes)%s", count, note)
	case limits.Memory > 0 && memory > limits.Memory:
		return fmt.Sprintf("the memory limits of the running sandboxes would add up to %d MB, and this daemon allows %d MB in total (--max-memory)%s",
			memory/sandbox.MiB, limits.Memory/sandbox.MiB, note)
	}
	return ""
}

// checkQuota returns an error caused by ErrQuota if the owner has as many sandboxes as allowed. The caller must
// hold l.mu.
func (l *Ledger) checkQuota(owner sandbox.Owner, limits Limits) error {
	if limits.PerOwner == 0 || owner == sandbox.Operator {
		return nil
	}
	count := 0
	for _, e := range l.all {
		if e.Owner == owner {
			count++
		}
	}
	if count < limits.PerOwner {
		return nil
	}
	return sandbox.Errorf(sandbox.Limit, "you have %d sandboxes, running or suspended, which is the limit for one owner (--max-sandboxes-per-owner): delete one that is not needed, or wait until one expires", count).WithCause(ErrQuota)
}

// freeUID returns a random uid that no sandbox has. The caller must hold l.mu.
func (l *Ledger) freeUID() int {
	taken := make(map[int]bool, len(l.all))
	for _, e := range l.all {
		taken[e.UID] = true
	}
	for {
		if uid := firstUID + rand.IntN(lastUID-firstUID); !taken[uid] {
			return uid
		}
	}
}
