// Package delivery tracks the executions of one sandbox from the time they are accepted until their end is on
// record, so that each of them is sent to the guest as often as necessary and runs at most once. It does no I/O:
// package manager sends the executions and writes the records.
//
// An execution ends when its guest reports its end. It is lost if its sandbox is terminated or goes back to a
// checkpoint, or if the guest does not have it. [Table] contains the executions that have not ended and are not lost.
// The guest itself runs an execution id only once. So it is harmless to send an execution twice, unless the sandbox
// went back to a checkpoint in the meantime.
package delivery

import (
	"slices"
	"sync"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Table contains the pending executions of one sandbox. It is safe for concurrent use.
type Table struct {
	received func() int64

	mu      sync.Mutex
	pending map[sandbox.ExecutionID]*Pending
	// queues contains the queue of each language's watcher, oldest execution first. A watcher runs while its
	// queue exists.
	queues map[sandbox.Language][]sandbox.ExecutionID
}

// Pending is an execution whose end is not on record yet.
type Pending struct {
	// Accepted is the state that the execution had when it was accepted.
	Accepted sandbox.Execution
	// Sending is the number of deliveries to the guest that are under way.
	Sending int
	// Reached is true if the guest may have received the execution.
	Reached bool
	// Begun is true after a call of [Table.Begin].
	Begun bool

	sends     int    // number of deliveries that were started
	abandoned bool   // no delivery may start any more
	sentAt    int64  // value of Table.received before the first delivery was sent, or one of the constants unsent and seen
	release   func() // called when the execution is removed from the table
}

// Special values of Pending.sentAt.
const (
	unsent = -1 // no delivery was sent
	seen   = -2 // the execution was sent by an earlier daemon, so clients may have seen effects of it
)

// New returns an empty table. received returns the number of reads from the guest so far.
func New(received func() int64) *Table {
	return &Table{received: received, pending: map[sandbox.ExecutionID]*Pending{}, queues: map[sandbox.Language][]sandbox.ExecutionID{}}
}

// Add adds an execution that is being accepted. release is called when the execution is removed.
func (t *Table) Add(e sandbox.Execution, release func()) {
	t.add(&Pending{Accepted: e, sentAt: unsent, release: release})
}

// Recover adds an execution that an earlier daemon accepted and whose end is not on record.
func (t *Table) Recover(e sandbox.Execution, release func()) {
	t.add(&Pending{Accepted: e, sentAt: seen, Reached: true, Begun: true, release: release})
}

func (t *Table) add(p *Pending) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pending[p.Accepted.ID] = p
}

// Len returns the number of pending executions.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.pending)
}

// Get returns a copy of a pending execution. ok is false if the execution is not pending.
func (t *Table) Get(id sandbox.ExecutionID) (p Pending, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.pending[id]; p != nil {
		return *p, true
	}
	return Pending{}, false
}

// StartSending counts a new delivery, which the caller must end with [Table.StopSending]. It returns false, and
// counts nothing, if the execution is not pending or was abandoned.
func (t *Table) StartSending(id sandbox.ExecutionID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.pending[id]
	if p == nil || p.abandoned {
		return false
	}
	p.Sending++
	p.sends++
	return true
}

// Sent marks an execution as sent. The caller must call it before it sends the execution to the guest.
func (t *Table) Sent(id sandbox.ExecutionID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.pending[id]; p != nil && p.sentAt == unsent {
		p.sentAt = t.received()
	}
}

// MarkReached records that the guest may have received an execution.
func (t *Table) MarkReached(id sandbox.ExecutionID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.pending[id]; p != nil {
		p.Reached = true
	}
}

// StopSending ends a delivery.
func (t *Table) StopSending(id sandbox.ExecutionID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.pending[id]; p != nil {
		p.Sending--
	}
}

// Begin marks an execution as begun. It returns the execution as accepted, and true, for the first call only.
func (t *Table) Begin(id sandbox.ExecutionID) (accepted sandbox.Execution, first bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.pending[id]
	if p == nil || p.Begun {
		return sandbox.Execution{}, false
	}
	p.Begun = true
	return p.Accepted, true
}

// Abandon marks an execution that the guest refused or does not have, so that no delivery of it can start. It
// returns false, and does nothing, if a delivery is under way or has started since the caller called [Table.Get].
// The parameter before is the result of that call.
func (t *Table) Abandon(id sandbox.ExecutionID, before Pending) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.pending[id]
	if p == nil || p.abandoned || p.Sending > 0 || p.sends != before.sends {
		return false
	}
	p.abandoned = true
	return true
}

// Restore undoes [Table.Abandon].
func (t *Table) Restore(id sandbox.ExecutionID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.pending[id]; p != nil {
		p.abandoned = false
	}
}

// Remove removes an execution and returns its last state. ok is false if it was not in the table, so of several
// callers only one gets true.
func (t *Table) Remove(id sandbox.ExecutionID) (p Pending, ok bool) {
	t.mu.Lock()
	removed := t.pending[id]
	delete(t.pending, id)
	t.mu.Unlock()
	if removed == nil {
		return Pending{}, false
	}
	removed.release()
	return *removed, true
}

// RemoveExcept removes and returns all executions that are not in keep.
func (t *Table) RemoveExcept(keep ...sandbox.ExecutionID) (removed []Pending) {
	t.mu.Lock()
	for id, p := range t.pending {
		if !slices.Contains(keep, id) {
			delete(t.pending, id)
			removed = append(removed, *p)
		}
	}
	t.mu.Unlock()
	for _, p := range removed {
		p.release()
	}
	return removed
}

// Unseen returns the executions that are being sent and whose effects no client can have seen, because nothing has
// been received from the guest since they were sent. If the sandbox goes back to a checkpoint, the effects of
// these executions are undone, so they can be sent again.
func (t *Table) Unseen() (ids []sandbox.ExecutionID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, p := range t.pending {
		if p.Sending > 0 && (p.sentAt == unsent || p.sentAt == t.received()) {
			ids = append(ids, id)
		}
	}
	return ids
}

// Enqueue adds a pending execution to the queue of its language's watcher. first is true if there was no queue,
// so that the caller must start a watcher.
func (t *Table) Enqueue(id sandbox.ExecutionID) (lang sandbox.Language, first bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.pending[id]
	if p == nil {
		return "", false
	}
	lang = p.Accepted.Language
	queue := t.queues[lang]
	if slices.Contains(queue, id) {
		return lang, false
	}
	t.queues[lang] = append(queue, id)
	return lang, len(queue) == 0
}

// Next returns the oldest pending execution in the queue of a language, after removing those that are no longer
// pending. If there is none, it removes the queue and returns false; the watcher must then end.
func (t *Table) Next(lang sandbox.Language) (sandbox.ExecutionID, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	queue := slices.DeleteFunc(t.queues[lang], func(id sandbox.ExecutionID) bool { return t.pending[id] == nil })
	if len(queue) == 0 {
		delete(t.queues, lang)
		return "", false
	}
	t.queues[lang] = queue
	return queue[0], true
}
