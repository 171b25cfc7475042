package manager

import (
	"context"
	"errors"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/delivery"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// Shortest and longest delay before a watcher sends a failed request again.
const (
	firstRetry = 200 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// watch starts to watch an execution, so that its end is recorded. Each kernel runs one execution at a time. So
// one watcher for each language is enough, no matter how many executions are in its queue.
func (s *liveSandbox) watch(id sandbox.ExecutionID) {
	if lang, first := s.executions.Enqueue(id); first {
		s.m.spawn(func() { s.watchQueue(lang) })
	}
}

// watchQueue waits for the executions in the queue of a language, one after another, and records their ends. After
// a failed request it retries until the guest answers or the sandbox is terminated. The manager does not suspend a
// sandbox that has a pending execution. After a crash such a sandbox can be suspended nevertheless, and then
// call resumes it.
func (s *liveSandbox) watchQueue(lang sandbox.Language) {
	delay := firstRetry
	for s.ctx.Err() == nil {
		id, ok := s.executions.Next(lang)
		if !ok {
			return
		}
		before, _ := s.executions.Get(id)
		var e sandbox.Execution
		err := s.call(s.ctx, guestTimeout(sandbox.MaxWaitSeconds), twice, func(ctx context.Context) (err error) {
			e, err = s.guest.Execution(ctx, id, sandbox.MaxWaitSeconds, sandbox.NoOutput)
			return err
		})
		switch {
		case err == nil:
			if _, err = s.recordEnd(s.complete(e, before.Accepted)); err == nil {
				delay = firstRetry
				continue
			}
			s.log.Error("the end of an execution could not be recorded; it is tried again", "execution", id, "error", err)
		case isAnswer(err) && sandbox.KindOf(err) == sandbox.NotFound && s.recordNeverRan(id, before):
			continue
		}
		select {
		case <-time.After(delay):
		case <-s.ctx.Done():
		}
		delay = min(2*delay, lastRetry)
	}
}

// complete returns e, which is an answer of the guest, with the fields that only the daemon has, such as the
// creation time of the accepted execution.
func (s *liveSandbox) complete(e, accepted sandbox.Execution) sandbox.Execution {
	e.SandboxID = s.id
	if !accepted.CreateTime.IsZero() {
		e.CreateTime = accepted.CreateTime
	}
	return e
}

// recordEnd stores how an execution ended, unless its record is final already, and returns the execution as
// recorded. Answers to clients must use the returned execution: if the sandbox was terminated first, the
// recorded state is "lost". After an error the execution stays pending, and its watcher retries. An execution
// that is not final is returned unchanged.
func (s *liveSandbox) recordEnd(e sandbox.Execution) (sandbox.Execution, error) {
	if !e.State.Final() {
		return e, nil
	}
	stored := false
	if _, pending := s.executions.Get(e.ID); pending {
		var err error
		if stored, err = s.m.store.FinishExecution(e); err != nil {
			return sandbox.Execution{}, endNotRecorded(e.ID, err)
		}
	}
	if !stored {
		rec, err := s.m.store.Execution(context.WithoutCancel(s.m.ctx), e.ID)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return sandbox.Execution{}, err
		}
		if err == nil && rec.State.Final() && rec.State != e.State {
			e = rec.Execution
			e.NextOffset = e.OutputBytes
		}
	}
	if p, ok := s.executions.Remove(e.ID); ok {
		s.reportEnd(p, e)
	}
	return e, nil
}

// endNotRecorded returns the error for an execution whose end could not be stored.
func endNotRecorded(id sandbox.ExecutionID, cause error) error {
	err := notRecorded(cause)
	return sandbox.Errorf(sandbox.KindOf(err), "execution %s has ended, but its result could not be stored yet. Do not run the code again; ask for the execution later with get_execution. %s",
		id, sandbox.Public(err).Message).WithCause(cause)
}

// recordNeverRan records that an execution never started because the guest does not have it. The parameter before
// is a copy of the pending execution that the caller made before it asked the guest. recordNeverRan returns false,
// and changes nothing, if the execution may have been delivered since, or if the record cannot be written.
func (s *liveSandbox) recordNeverRan(id sandbox.ExecutionID, before delivery.Pending) bool {
	if !s.executions.Abandon(id, before) {
		return false
	}
	e := before.Accepted
	e.State, e.EndTime = sandbox.ExecLost, s.m.now()
	e.Reason = "it was accepted and never started, because Dormouse or its engine stopped at that moment: run it again"
	if err := s.m.store.AbandonExecution(e); err != nil {
		s.log.Error("the loss of an execution could not be recorded; it is tried again", "execution", id, "error", err)
		s.executions.Restore(id)
		return false
	}
	if p, ok := s.executions.Remove(id); ok {
		s.reportEnd(p, e)
	}
	s.log.Warn("an execution never started", "execution", id)
	return true
}

// reportBegin calls OnExecution when the guest has accepted an execution, or may have accepted it. Only the first
// call for an execution has an effect.
func (s *liveSandbox) reportBegin(id sandbox.ExecutionID) {
	if s.m.cfg.OnExecution == nil {
		return
	}
	if accepted, first := s.executions.Begin(id); first {
		s.m.cfg.OnExecution(accepted)
	}
}

// reportEnd calls OnExecution for an execution that has ended. p is its entry, which was removed from the pending
// executions, and e is its final state.
func (s *liveSandbox) reportEnd(p delivery.Pending, e sandbox.Execution) {
	if s.m.cfg.OnExecution == nil {
		return
	}
	if !p.Begun {
		s.m.cfg.OnExecution(p.Accepted)
	}
	s.m.cfg.OnExecution(e)
}

// reportLost calls OnExecution for executions that were lost.
func (s *liveSandbox) reportLost(lost []delivery.Pending) {
	for _, p := range lost {
		e := p.Accepted
		e.State = sandbox.ExecLost
		s.reportEnd(p, e)
	}
}
