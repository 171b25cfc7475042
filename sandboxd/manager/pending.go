package manager

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// pending is an execution whose end is not on record yet. It becomes final when its guest reports its end. It
// becomes lost if its sandbox is terminated or rewound, or if the guest does not have it. All fields except
// accepted are guarded by box.mu; accepted does not change.
type pending struct {
	accepted   sandbox.Execution
	delivering int  // deliveries to the guest that are under way
	deliveries int  // deliveries started so far
	abandoned  bool // the execution must not be delivered any more: its record is being removed or marked as lost
	begun      bool // OnExecution has been called for the begin of the execution
	over       bool // OnExecution has been called for the end of the execution
	// heard reports whether any bytes have been received from the guest since the first delivery was sent, so
	// that a client may have seen an effect of the execution. It is nil before that delivery is sent.
	heard func() bool
}

// expect adds an accepted execution to b.pending.
func (b *box) expect(e sandbox.Execution) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pending[e.ID] = &pending{accepted: e}
	b.work = true
}

// unbegun returns the executions that are being delivered and of which no client has seen any effect: nothing
// has been received from the guest since they were sent. After a rewind, which undoes what the guest did, these
// executions have not run, and can be delivered again.
func (b *box) unbegun() (ids []sandbox.ExecutionID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, p := range b.pending {
		if p.delivering > 0 && (p.heard == nil || !p.heard()) {
			ids = append(ids, id)
		}
	}
	return ids
}

// forget removes an execution from b.pending and returns it, or nil if it was not there.
func (b *box) forget(id sandbox.ExecutionID) *pending {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.pending[id]
	if p == nil {
		return nil
	}
	delete(b.pending, id)
	b.active = time.Now()
	return p
}

// began calls OnExecution for the begin of an execution, unless OnExecution has been called for that begin
// already. The caller calls began when the guest has accepted the execution, or may have accepted it.
func (m *Manager) began(b *box, id sandbox.ExecutionID) {
	b.mu.Lock()
	p := b.pending[id]
	first := p != nil && !p.begun
	if first {
		p.begun = true
	}
	b.mu.Unlock()
	if first && m.OnExecution != nil {
		m.OnExecution(p.accepted)
	}
}

// ended calls OnExecution for the end of an execution. If OnExecution has not been called for its begin, ended
// calls it for the begin first. OnExecution is called at most once for each begin and each end.
func (m *Manager) ended(b *box, p *pending, e sandbox.Execution) {
	b.mu.Lock()
	begun, over := p.begun, p.over
	p.begun, p.over = true, true
	b.mu.Unlock()
	if m.OnExecution == nil || over {
		return
	}
	if !begun {
		m.OnExecution(p.accepted)
	}
	m.OnExecution(e)
}

// lost calls OnExecution for executions that were lost.
func (m *Manager) lost(b *box, some []*pending) {
	for _, p := range some {
		e := p.accepted
		e.State = sandbox.ExecLost
		m.ended(b, p, e)
	}
}

// allPending returns all pending executions. The caller must hold b.mu.
func (b *box) allPending() []*pending { return slices.Collect(maps.Values(b.pending)) }

// beginDelivery counts a new delivery, which the caller must end with endDelivery. It returns false, and counts
// nothing, if the execution is no longer pending or has been abandoned.
func (b *box) beginDelivery(id sandbox.ExecutionID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.pending[id]
	if p == nil || p.abandoned {
		return false
	}
	p.delivering++
	p.deliveries++
	return true
}

// sendDelivery marks the execution as sent. The caller must call it before it sends the execution to the guest.
func (b *box) sendDelivery(id sandbox.ExecutionID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.pending[id]; p != nil && p.heard == nil {
		p.heard = b.hear()
	}
}

// expectOld adds an execution that an earlier daemon accepted. It assumes that clients have seen effects of the
// execution, and that OnExecution has been called for its begin.
func (b *box) expectOld(e sandbox.Execution) {
	b.expect(e)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pending[e.ID].heard, b.pending[e.ID].begun = func() bool { return true }, true
}

// endDelivery marks the end of a delivery.
func (b *box) endDelivery(id sandbox.ExecutionID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.pending[id]; p != nil {
		p.delivering--
	}
}

// expected returns a copy of the pending execution, and false if it is not pending.
func (b *box) expected(id sandbox.ExecutionID) (pending, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.pending[id]; p != nil {
		return *p, true
	}
	return pending{}, false
}

// abandon marks an execution that the guest refused or does not have, so that it is not delivered any more. It
// returns false, and does nothing, if a delivery is under way or has started since the parameter before was
// obtained from expected.
func (b *box) abandon(id sandbox.ExecutionID, before pending) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.pending[id]
	if p == nil || p.abandoned || p.delivering > 0 || p.deliveries != before.deliveries {
		return false
	}
	p.abandoned = true
	return true
}

// unabandon undoes abandon.
func (b *box) unabandon(id sandbox.ExecutionID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.pending[id]; p != nil {
		p.abandoned = false
	}
}

// recordEnd stores how an execution ended, unless its record is final already, and returns the execution as
// recorded. Answers to clients must use the returned execution: if the sandbox was terminated first, the
// recorded state is "lost". After an error the execution stays pending, and its watcher retries. An execution
// that is not final is returned unchanged.
func (m *Manager) recordEnd(b *box, e sandbox.Execution) (sandbox.Execution, error) {
	if !e.State.Final() {
		return e, nil
	}
	stored := false
	if _, waiting := b.expected(e.ID); waiting {
		var err error
		if stored, err = m.Store.FinishExecution(e); err != nil {
			return sandbox.Execution{}, endNotRecorded(e.ID, err)
		}
	}
	if !stored {
		rec, err := m.Store.Execution(context.WithoutCancel(m.ctx), e.ID)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return sandbox.Execution{}, err
		}
		if err == nil && rec.State.Final() && rec.State != e.State {
			e = rec.Execution
			e.NextOffset = e.OutputBytes
		}
	}
	if p := b.forget(e.ID); p != nil {
		m.ended(b, p, e)
	}
	return e, nil
}

// endNotRecorded returns the error for an execution whose end could not be stored.
func endNotRecorded(id sandbox.ExecutionID, cause error) error {
	err := notRecorded(cause)
	return sandbox.Errorf(sandbox.KindOf(err), "execution %s has ended, and how is not known for certain until that is stored. Do not run the code again; ask for the execution later. %s",
		id, sandbox.Public(err).Message).WithCause(cause)
}

// neverRan records that an execution never started because the guest does not have it. The parameter before is a
// copy of the pending execution, obtained from expected before the guest was asked. neverRan returns false, and
// changes nothing, if the execution may have been delivered since, or if the record cannot be written.
func (m *Manager) neverRan(b *box, id sandbox.ExecutionID, before pending) bool {
	if !b.abandon(id, before) {
		return false
	}
	e := before.accepted
	e.State, e.EndTime = sandbox.ExecLost, m.now()
	e.Reason = "it was accepted and never started, because Dormouse or its engine stopped in that moment: run it again"
	if err := m.Store.AbandonExecution(e); err != nil {
		b.log.Error("a record was not written", "execution", id, "error", err)
		b.unabandon(id)
		return false
	}
	if p := b.forget(id); p != nil {
		m.ended(b, p, e)
	}
	b.log.Warn("an execution never started", "execution", id)
	return true
}

// queue adds a pending execution to the queue of its language's watcher. first is true if the queue was empty,
// so that the caller must start a watcher.
func (b *box) queue(id sandbox.ExecutionID) (lang sandbox.Language, first bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.pending[id]
	if p == nil {
		return "", false
	}
	lang = p.accepted.Language
	queue := b.followed[lang]
	if slices.Contains(queue, id) {
		return lang, false
	}
	b.followed[lang] = append(queue, id)
	return lang, len(queue) == 0
}

// nextFollowed returns the oldest pending execution in the queue of a language, after removing those that are
// no longer pending. If there is none, it removes the queue and returns false; the watcher must then end.
func (b *box) nextFollowed(lang sandbox.Language) (sandbox.ExecutionID, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	queue := slices.DeleteFunc(b.followed[lang], func(id sandbox.ExecutionID) bool { return b.pending[id] == nil })
	if len(queue) == 0 {
		delete(b.followed, lang)
		return "", false
	}
	b.followed[lang] = queue
	return queue[0], true
}
