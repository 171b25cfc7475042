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

// pending is an execution whose end is not on record. It becomes final when its guest says
// so, or lost: with its sandbox, or because the guest never heard of it.
type pending struct {
	accepted   sandbox.Execution
	delivering int  // deliveries to the guest under way
	deliveries int  // ever
	abandoned  bool // it was found never to have begun, and must not begin any more
	begun      bool // OnExecution has heard of it
	over       bool // and of its end
	// heard reports whether anybody can have seen anything of it. Nil: it is not on its way yet.
	heard func() bool
}

// expect adds an execution that has been accepted.
func (b *box) expect(e sandbox.Execution) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pending[e.ID] = &pending{accepted: e}
	b.work = true
}

// unbegun returns the executions that are on their way to the guest, and of which nobody has seen anything: if what
// the guest did is undone, they have not run.
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

// forget drops what was expected, and returns it; nil if it no longer was.
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

// began tells OnExecution of an execution that the guest has taken, or may have.
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

// ended tells OnExecution of an execution's end, and before that of its beginning if it has not heard of it: each once.
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

// lost tells OnExecution that executions were lost.
func (m *Manager) lost(b *box, some []*pending) {
	for _, p := range some {
		e := p.accepted
		e.State = sandbox.ExecLost
		m.ended(b, p, e)
	}
}

// allPending is called with mu held.
func (b *box) allPending() []*pending { return slices.Collect(maps.Values(b.pending)) }

// beginDelivery marks the begin of a delivery, or reports that the execution needs none any more.
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

// sendDelivery marks the moment from which on the guest can have it.
func (b *box) sendDelivery(id sandbox.ExecutionID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.pending[id]; p != nil && p.heard == nil {
		p.heard = b.hear()
	}
}

// expectOld adds an execution that an earlier daemon has accepted, and perhaps heard of.
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

// expected returns a copy of what is known of a pending execution.
func (b *box) expected(id sandbox.ExecutionID) (pending, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.pending[id]; p != nil {
		return *p, true
	}
	return pending{}, false
}

// abandon gives an execution up that the guest did not know, unless somebody has
// delivered it since before was taken.
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

// recordEnd stores how an execution ended, unless its record is final already. It returns the execution as it is on record. Every
// answer must use that, because the record can say "lost" if the sandbox ended first. After an error the execution stays
// pending, and its watcher tries again.
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

// neverRan stores that the guest has never heard of an execution. It reports whether that is so.
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

// queue adds a pending execution to those that are followed, and reports whether it is the
// first of its language, which has no watcher yet.
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

// nextFollowed returns the oldest execution of a language that is still pending, dropping those
// that are not. None: the watcher is done.
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
