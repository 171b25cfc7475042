package manager

import (
	"context"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Shortest and longest delay before a failed request is sent again.
const (
	firstBackoff = 200 * time.Millisecond
	lastBackoff  = 30 * time.Second
)

// follow starts to watch an execution, so that its end is recorded. Each kernel runs one execution at a time. So
// one watcher for each language is enough, no matter how many executions are in its queue.
func (m *Manager) follow(b *box, id sandbox.ExecutionID) {
	if lang, first := b.queue(id); first {
		m.spawn(func() { m.watch(b, lang) })
	}
}

// watch waits for the executions in the queue of a language, one after another, and records their ends. After a
// failed request it retries until the guest answers or the sandbox is terminated. The manager does not suspend a
// sandbox that has a pending execution. After a crash such a sandbox can be suspended nevertheless, and then
// call resumes it.
func (m *Manager) watch(b *box, lang sandbox.Language) {
	backoff := firstBackoff
	for b.ctx.Err() == nil {
		id, ok := b.nextFollowed(lang)
		if !ok {
			return
		}
		before, _ := b.expected(id)
		var e sandbox.Execution
		err := m.call(b.ctx, b, sandbox.MaxWaitSeconds*time.Second+answerTimeout, twice, func(ctx context.Context) (err error) {
			e, err = b.guest.Execution(ctx, id, sandbox.MaxWaitSeconds, sandbox.NoOutput)
			return err
		})
		switch {
		case err == nil:
			if _, err = m.recordEnd(b, m.own(b, e, before.accepted)); err == nil {
				backoff = firstBackoff
				continue
			}
			b.log.Error("the end of an execution is not on record yet", "execution", id, "error", err)
		case answered(err) && sandbox.KindOf(err) == sandbox.NotFound && m.neverRan(b, id, before):
			continue
		}
		select {
		case <-time.After(backoff):
		case <-b.ctx.Done():
		}
		backoff = min(2*backoff, lastBackoff)
	}
}

// own returns e, which is an answer of a guest, with the fields that only the daemon has, such as the creation
// time of the accepted execution.
func (m *Manager) own(b *box, e, accepted sandbox.Execution) sandbox.Execution {
	e.SandboxID = b.id
	if !accepted.CreateTime.IsZero() {
		e.CreateTime = accepted.CreateTime
	}
	return e
}
