package manager

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// Execute runs code in a sandbox. It returns when the execution is final, or with what it
// is when WaitSeconds are over. An execution that was accepted runs whether or not somebody waits.
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
			continue // another request with this id was faster, or the sandbox must be resumed first
		}
		return e, err
	}
}

// executeNew accepts an execution, which puts it on disk, and hands it to the guest.
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
	defer release() // from when it is expected, that keeps the sandbox awake
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

// errStale says that an execution ended while it was looked at: look again.
var errStale = errors.New("the execution has just ended")

// executeAgain answers a retry with the first execution. If the guest has not heard of it yet,
// because a connection broke, it hears of it now: the code is at hand.
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
		return sandbox.Execution{}, errStale // it never ran
	}
	return m.GetExecution(ctx, string(first.ID), req.WaitSeconds, req.Window)
}

// handOver gives an accepted execution to the guest and returns its answer. If ctx ends
// before, it does so all the same.
func (m *Manager) handOver(ctx context.Context, b *box, accepted sandbox.Execution, req sandbox.ExecuteRequest) (sandbox.Execution, error) {
	type answer struct {
		e   sandbox.Execution
		err error
	}
	answers := make(chan answer, 1)
	req.RequestID = "" // the guest knows it by its id
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

// errOver says that an execution needs no delivery any more: it is final, or was lost when its sandbox was rewound.
var errOver error = sandbox.Errorf(sandbox.Busy, "the execution is over")

// refusing is how soon a guest says that it does not take an execution.
const refusing = 200 * time.Millisecond

func (m *Manager) deliver(b *box, accepted sandbox.Execution, req sandbox.ExecuteRequest) (sandbox.Execution, error) {
	var e sandbox.Execution
	reached := b.reach()
	b.sendDelivery(accepted.ID)
	err := m.call(b.ctx, b, waiting(req.WaitSeconds), twice, func(ctx context.Context) (err error) {
		if _, waiting := b.expected(accepted.ID); !waiting {
			return errOver
		}
		// A guest that refuses says so at once; the answer of one that runs it can take as long as somebody waits.
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
		m.follow(b, accepted.ID) // does nothing when its end is on record
		return e, err
	}
	if kind := sandbox.KindOf(err); kind == sandbox.Invalid || kind == sandbox.Limit || kind == sandbox.Busy || !reached() {
		// It refused, or has not heard of it. Another delivery of the same may be under way.
		if now, ok := b.expected(accepted.ID); ok && b.abandon(accepted.ID, now) {
			if removeErr := m.Store.RemoveExecution(accepted.ID); removeErr != nil {
				b.log.Error("a record was not written", "execution", accepted.ID, "error", removeErr)
				b.unabandon(accepted.ID)
				m.follow(b, accepted.ID) // records that it never ran, because the guest has no such execution
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
	m.follow(b, accepted.ID) // whatever happened, it will be found out
	return sandbox.Execution{}, sandbox.Errorf(sandbox.KindOf(err), "%s (the code was accepted as execution %s: ask what became of it before you run it again)",
		sandbox.Public(err).Message, accepted.ID).WithCause(err)
}

// waiting is the deadline of a call that waits this long for an execution.
func waiting(seconds float64) time.Duration {
	return time.Duration(seconds*float64(time.Second)) + answerTimeout
}

// hashOfExecute covers what makes two requests the same execution.
func hashOfExecute(req sandbox.ExecuteRequest) []byte {
	return hashOf(sandbox.ExecuteRequest{Code: req.Code, Language: req.Language, TimeoutSeconds: req.TimeoutSeconds})
}
