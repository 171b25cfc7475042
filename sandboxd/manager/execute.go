package manager

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// Execute runs code in a sandbox. It returns when the execution is final, or with its current state after
// req.WaitSeconds. An accepted execution continues even if ctx ends. A retry with the same RequestID returns the
// first execution.
func (m *Manager) Execute(ctx context.Context, name string, req sandbox.ExecuteRequest) (sandbox.Execution, error) {
	if err := sandbox.ValidateRequestID(req.RequestID); err != nil {
		return sandbox.Execution{}, err
	}
	for {
		if req.RequestID != "" {
			first, err := m.Store.ExecutionByRequest(ctx, sandbox.OwnerOf(ctx), req.RequestID)
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
		if errors.Is(err, store.ErrRequestTaken) || errors.Is(err, errRewound) {
			continue // another request with this request id was recorded first, or the sandbox must be resumed first
		}
		return e, err
	}
}

// executeNew records a new execution and delivers it to the guest.
func (m *Manager) executeNew(ctx context.Context, name string, req sandbox.ExecuteRequest) (sandbox.Execution, error) {
	b, err := m.find(ctx, name)
	if err != nil {
		return sandbox.Execution{}, err
	}
	if err := req.Validate(b.language); err != nil {
		return sandbox.Execution{}, err
	}
	release, err := m.hold(ctx, b)
	if err != nil {
		return sandbox.Execution{}, err
	}
	defer release() // the call of b.expect below also keeps the sandbox from being suspended, until the execution ends
	e := sandbox.Execution{
		ID: sandbox.NewExecutionID(), SandboxID: b.id, Language: req.Language, State: sandbox.ExecQueued,
		TimeoutSeconds: *req.TimeoutSeconds, CreateTime: m.now(),
	}
	rec := store.Execution{Execution: e, Requester: sandbox.OwnerOf(ctx), RequestID: req.RequestID}
	if req.RequestID != "" {
		rec.RequestHash = hashOfExecute(req)
	}
	b.expect(e)
	b.beginDelivery(e.ID)
	err = m.Store.AddExecution(rec)
	switch {
	case err == nil:
		return m.handOver(ctx, b, e, req)
	case errors.Is(err, store.ErrEnded) && b.alive() && ctx.Err() == nil && m.ctx.Err() == nil:
		err = errRewound
	case errors.Is(err, store.ErrEnded):
		err = m.whyGone(ctx, b)
	case !errors.Is(err, store.ErrRequestTaken):
		err = notRecorded(err)
	}
	b.forget(e.ID)
	return sandbox.Execution{}, err
}

// errRewound is returned when a sandbox went back to a checkpoint while an execution was being accepted.
var errRewound = errors.New("the sandbox was rewound")

// errStale is returned by executeAgain if the first execution never ran, so that its record was removed or its
// request id was released. The caller must look up the request id again.
var errStale = errors.New("the execution has just ended")

// executeAgain answers a retry with the first execution. If the guest does not have that execution yet, because
// a connection broke, executeAgain delivers it again, with the code from the retry.
func (m *Manager) executeAgain(ctx context.Context, name string, first store.Execution, req sandbox.ExecuteRequest) (sandbox.Execution, error) {
	if err := req.Validate(first.Language); err != nil {
		return sandbox.Execution{}, err
	}
	if !bytes.Equal(first.RequestHash, hashOfExecute(req)) {
		return sandbox.Execution{}, sandbox.Errorf(sandbox.Invalid, "request_id %q was used for other code, by execution %s: use a new one", req.RequestID, first.ID)
	}
	if b, _, err := m.named(ctx, name); err != nil {
		return sandbox.Execution{}, err
	} else if sandbox.IsID(name) && name != string(first.SandboxID) || b != nil && b.id != first.SandboxID {
		return sandbox.Execution{}, sandbox.Errorf(sandbox.Invalid, "request_id %q was used in another sandbox, %s, by execution %s: use a new one", req.RequestID, first.SandboxID, first.ID)
	}
	b := m.running(first.SandboxID)
	if b == nil || first.State.Final() {
		return m.GetExecution(ctx, string(first.ID), req.WaitSeconds, req.Window)
	}
	if b.beginDelivery(first.ID) {
		return m.handOver(ctx, b, first.Execution, req)
	}
	again, err := m.Store.Execution(ctx, first.ID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return sandbox.Execution{}, err
	}
	if err == nil && again.RequestID == "" || errors.Is(err, store.ErrNotFound) {
		return sandbox.Execution{}, errStale // the first execution never ran
	}
	return m.GetExecution(ctx, string(first.ID), req.WaitSeconds, req.Window)
}

// handOver delivers an accepted execution to the guest and returns the guest's answer. If ctx ends first,
// handOver returns, and the delivery continues in the background. The caller must have called beginDelivery.
func (m *Manager) handOver(ctx context.Context, b *box, accepted sandbox.Execution, req sandbox.ExecuteRequest) (sandbox.Execution, error) {
	type answer struct {
		e   sandbox.Execution
		err error
	}
	answers := make(chan answer, 1)
	req.RequestID = "" // the guest identifies the execution by its execution id
	if !m.spawn(func() {
		e, err := m.deliver(b, accepted, req)
		answers <- answer{e, err}
	}) {
		return sandbox.Execution{}, errStopping()
	}
	select {
	case a := <-answers:
		return a.e, a.err
	case <-ctx.Done():
		return sandbox.Execution{}, ctx.Err()
	}
}

// errOver is returned when an execution needs no delivery any more: it is final, or was lost when its sandbox
// was rewound.
var errOver error = sandbox.Errorf(sandbox.Busy, "the execution is over")

// refusing is the time after which deliver assumes that the guest has not refused an execution. A guest that
// refuses one answers immediately.
const refusing = 200 * time.Millisecond

// deliver sends an accepted execution to the guest, and calls endDelivery. It removes the record of an execution that
// the guest refused or never received. It returns the guest's answer, or the record if the sandbox has ended.
func (m *Manager) deliver(b *box, accepted sandbox.Execution, req sandbox.ExecuteRequest) (sandbox.Execution, error) {
	var e sandbox.Execution
	reached := b.reach()
	b.sendDelivery(accepted.ID)
	err := m.call(b.ctx, b, waiting(req.WaitSeconds), twice, func(ctx context.Context) (err error) {
		if _, waiting := b.expected(accepted.ID); !waiting {
			return errOver
		}
		// A guest that runs the execution may answer only after WaitSeconds. So report the begin of the execution
		// if there is no answer within the duration refusing.
		defer time.AfterFunc(refusing, func() { m.began(b, accepted.ID) }).Stop()
		e, err = b.guest.Execute(ctx, accepted.ID, req)
		return err
	})
	b.endDelivery(accepted.ID)
	if errors.Is(err, errOver) {
		return m.GetExecution(m.ctx, string(accepted.ID), 0, req.Window)
	}
	if err == nil {
		m.began(b, accepted.ID)
		e, err = m.recordEnd(b, m.own(b, e, accepted))
		m.follow(b, accepted.ID) // does nothing if the end of the execution is on record
		return e, err
	}
	if kind := sandbox.KindOf(err); kind == sandbox.Invalid || kind == sandbox.Limit || kind == sandbox.Busy || !reached() {
		// The guest refused the execution or did not receive it. If another delivery of the same execution is
		// under way, abandon returns false.
		if now, ok := b.expected(accepted.ID); ok && b.abandon(accepted.ID, now) {
			if removeErr := m.Store.RemoveExecution(accepted.ID); removeErr != nil {
				b.log.Error("a record was not written", "execution", accepted.ID, "error", removeErr)
				b.unabandon(accepted.ID)
				// The watcher then records that the execution never ran, because the guest does not have it.
				m.follow(b, accepted.ID)
			} else {
				b.forget(accepted.ID)
			}
		}
		return sandbox.Execution{}, err
	}
	if !b.alive() {
		return m.GetExecution(m.ctx, string(accepted.ID), 0, req.Window)
	}
	m.began(b, accepted.ID)
	m.follow(b, accepted.ID) // the watcher finds out whether the guest has the execution, and records its end
	return sandbox.Execution{}, sandbox.Errorf(sandbox.KindOf(err), "%s (the code was accepted as execution %s: ask what became of it before you run it again)",
		sandbox.Public(err).Message, accepted.ID).WithCause(err)
}

// waiting returns the timeout of a call that asks the guest to wait up to the given seconds for an execution.
func waiting(seconds float64) time.Duration {
	return time.Duration(seconds*float64(time.Second)) + answerTimeout
}

// hashOfExecute returns a hash of the fields that must be equal in a retry: code, language and timeout.
func hashOfExecute(req sandbox.ExecuteRequest) []byte {
	return hashOf(sandbox.ExecuteRequest{Code: req.Code, Language: req.Language, TimeoutSeconds: req.TimeoutSeconds})
}
