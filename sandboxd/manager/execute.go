package manager

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// Execute runs code in a sandbox. It returns when the execution is final, or with its current state after
// req.WaitSeconds. An accepted execution continues even if ctx ends. A retry with the same RequestID returns the
// first execution. The caller must have called req.Validate, which sets a missing timeout. Execute panics if the
// timeout of a new execution is nil.
func (m *Manager) Execute(ctx context.Context, name string, req sandbox.ExecuteRequest) (sandbox.Execution, error) {
	for {
		if req.RequestID != "" {
			first, err := m.store.ExecutionByRequest(ctx, sandbox.OwnerOf(ctx), req.RequestID)
			if err == nil {
				e, err := m.executeAgain(ctx, name, first, req)
				if errors.Is(err, errStale) {
					continue
				}
				return e, err
			}
			if !errors.Is(err, store.ErrNotFound) {
				return sandbox.Execution{}, err
			}
		}
		e, err := m.executeNew(ctx, name, req)
		if errors.Is(err, store.ErrRequestTaken) || errors.Is(err, errNotRunning) {
			continue // another request with this request id was recorded first, or the sandbox must be resumed first
		}
		return e, err
	}
}

// executeNew records a new execution and delivers it to the guest.
func (m *Manager) executeNew(ctx context.Context, name string, req sandbox.ExecuteRequest) (sandbox.Execution, error) {
	s, err := m.find(ctx, name)
	if err != nil {
		return sandbox.Execution{}, err
	}
	if req.Language == "" {
		req.Language = s.language
	}
	release, err := s.acquire(ctx)
	if err != nil {
		return sandbox.Execution{}, err
	}
	defer release() // the pending execution retains the sandbox until its end is on record
	e := sandbox.Execution{
		ID: sandbox.NewExecutionID(), SandboxID: s.id, Language: req.Language, State: sandbox.ExecQueued,
		TimeoutSeconds: *req.TimeoutSeconds, CreateTime: m.now(),
	}
	rec := store.Execution{Execution: e, Requester: sandbox.OwnerOf(ctx), RequestID: req.RequestID}
	if req.RequestID != "" {
		rec.RequestHash = hashOfExecute(req)
	}
	s.executions.Add(e, s.life.Retain())
	s.executions.StartSending(e.ID)
	s.markChanged()
	err = m.store.AddExecution(rec)
	switch {
	case err == nil:
		return s.deliver(ctx, e, req)
	case errors.Is(err, store.ErrNotRunning) && !s.isTerminated() && ctx.Err() == nil && m.ctx.Err() == nil:
		err = errNotRunning
	case errors.Is(err, store.ErrNotRunning):
		err = s.whyGone(ctx)
	case !errors.Is(err, store.ErrRequestTaken):
		err = notRecorded(err)
	}
	s.executions.Remove(e.ID)
	return sandbox.Execution{}, err
}

// errNotRunning is returned when the engine suspended a sandbox, or the sandbox went back to a checkpoint, while an
// execution was being accepted.
var errNotRunning = errors.New("the sandbox is not running any more")

// errStale is returned by executeAgain if the first execution never ran, so that its record was removed or its
// request id was released. The caller must look up the request id again.
var errStale = errors.New("the execution has just ended")

// executeAgain answers a retry with the first execution. While that execution is pending, executeAgain delivers it
// again, with the code from the retry, because the guest may not have received it. The guest runs an execution id
// only once.
func (m *Manager) executeAgain(ctx context.Context, name string, first store.Execution, req sandbox.ExecuteRequest) (sandbox.Execution, error) {
	if req.Language == "" {
		req.Language = first.Language
	}
	if !bytes.Equal(first.RequestHash, hashOfExecute(req)) {
		return sandbox.Execution{}, sandbox.Errorf(sandbox.Invalid, "request_id %q was used for other code, by execution %s: use a new one", req.RequestID, first.ID)
	}
	if s, err := m.named(ctx, name); err != nil {
		return sandbox.Execution{}, err
	} else if sandbox.IsID(name) && name != string(first.SandboxID) || s != nil && s.id != first.SandboxID {
		return sandbox.Execution{}, sandbox.Errorf(sandbox.Invalid, "request_id %q was used in another sandbox, %s, by execution %s: use a new one", req.RequestID, first.SandboxID, first.ID)
	}
	s := m.created(first.SandboxID)
	if s == nil || first.State.Final() {
		return m.GetExecution(ctx, string(first.ID), req.WaitSeconds, req.Window)
	}
	if s.executions.StartSending(first.ID) {
		return s.deliver(ctx, first.Execution, req)
	}
	again, err := m.store.Execution(ctx, first.ID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return sandbox.Execution{}, err
	}
	if err == nil && again.RequestID == "" || errors.Is(err, store.ErrNotFound) {
		return sandbox.Execution{}, errStale // the first execution never ran
	}
	return m.GetExecution(ctx, string(first.ID), req.WaitSeconds, req.Window)
}

// deliver delivers an accepted execution to the guest and returns the guest's answer. If ctx ends first,
// deliver returns, and the delivery continues in the background. The caller must have called StartSending.
func (s *liveSandbox) deliver(ctx context.Context, accepted sandbox.Execution, req sandbox.ExecuteRequest) (sandbox.Execution, error) {
	type answer struct {
		e   sandbox.Execution
		err error
	}
	answers := make(chan answer, 1)
	req.RequestID = "" // the guest identifies the execution by its execution id
	if !s.m.spawn(func() {
		e, err := s.sendExecution(accepted, req)
		answers <- answer{e, err}
	}) {
		return sandbox.Execution{}, sandbox.ErrStopping
	}
	select {
	case a := <-answers:
		return a.e, a.err
	case <-ctx.Done():
		return sandbox.Execution{}, ctx.Err()
	}
}

// errNotPending is returned when an execution needs no delivery any more: it is final, or was lost when its sandbox
// was rewound.
var errNotPending error = sandbox.Errorf(sandbox.Busy, "the execution has ended")

// beginDelay is the time after which sendExecution assumes that the guest has not refused an execution. A guest that
// refuses one answers immediately.
const beginDelay = 200 * time.Millisecond

// sendExecution sends an accepted execution to the guest, and calls StopSending. It removes the record of an
// execution that the guest refused, or that cannot have reached the guest. It returns the guest's answer, or the
// record if the sandbox was terminated.
func (s *liveSandbox) sendExecution(accepted sandbox.Execution, req sandbox.ExecuteRequest) (sandbox.Execution, error) {
	var e sandbox.Execution
	var refused bool // the guest refused the execution; it never refuses one that it already has
	var reached bool // the guest may have received the execution from this delivery
	s.executions.Sent(accepted.ID)
	err := s.call(s.ctx, guestTimeout(req.WaitSeconds), twice, func(ctx context.Context) (err error) {
		if _, pending := s.executions.Get(accepted.ID); !pending {
			return errNotPending
		}
		// A guest that runs the execution may answer only after WaitSeconds, so report the begin before the answer.
		defer time.AfterFunc(beginDelay, func() { s.reportBegin(accepted.ID) }).Stop()
		e, err = s.guest.Execute(ctx, accepted.ID, req)
		if !guest.NotSent(err) {
			reached = true
			s.executions.MarkReached(accepted.ID)
		}
		kind := sandbox.KindOf(err)
		refused = isAnswer(err) && (kind == sandbox.Invalid || kind == sandbox.Limit || kind == sandbox.Busy)
		return err
	})
	s.executions.StopSending(accepted.ID)
	if errors.Is(err, errNotPending) {
		return s.m.GetExecution(s.m.ctx, string(accepted.ID), 0, req.Window)
	}
	if err == nil {
		s.reportBegin(accepted.ID)
		e, err = s.recordEnd(s.complete(e, accepted))
		s.watch(accepted.ID) // does nothing if the end of the execution is on record
		return e, err
	}
	// p.Reached is true if this or another delivery may have reached the guest.
	if p, _ := s.executions.Get(accepted.ID); refused || !reached && !p.Reached {
		s.withdraw(accepted.ID)
		return sandbox.Execution{}, err
	}
	if s.isTerminated() {
		return s.m.GetExecution(s.m.ctx, string(accepted.ID), 0, req.Window)
	}
	s.reportBegin(accepted.ID)
	s.watch(accepted.ID) // the watcher finds out whether the guest has the execution, and records its end
	return sandbox.Execution{}, sandbox.Errorf(sandbox.KindOf(err), "%s (the code was accepted as execution %s: ask for its state with get_execution before you run it again)",
		sandbox.Public(err).Message, accepted.ID).WithCause(err)
}

// withdraw removes the record of an execution that the guest does not have, unless another delivery of the same
// execution is under way.
func (s *liveSandbox) withdraw(id sandbox.ExecutionID) {
	p, ok := s.executions.Get(id)
	if !ok || !s.executions.Abandon(id, p) {
		return
	}
	if err := s.m.store.RemoveExecution(id); err != nil {
		s.log.Error("the record of a refused execution could not be removed", "execution", id, "error", err)
		s.executions.Restore(id)
		s.watch(id) // the watcher then records that the execution never ran, because the guest does not have it
		return
	}
	s.executions.Remove(id)
}

// guestTimeout returns the timeout of a call that asks the guest to wait up to the given seconds for an execution.
func guestTimeout(seconds float64) time.Duration {
	return time.Duration(seconds*float64(time.Second)) + answerTimeout
}

// hashOfExecute returns a hash of the fields that must be equal in a retry: code, language and timeout.
func hashOfExecute(req sandbox.ExecuteRequest) []byte {
	return hashOf(sandbox.ExecuteRequest{Code: req.Code, Language: req.Language, TimeoutSeconds: req.TimeoutSeconds})
}
