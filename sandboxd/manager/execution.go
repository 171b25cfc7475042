package manager

import (
	"context"
	"errors"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// handingOver is how soon to ask again for what is on its way to the guest.
const handingOver = 20 * time.Millisecond

// FindExecution returns the execution that a request made, without output.
func (m *Manager) FindExecution(ctx context.Context, requestID string) (sandbox.Execution, error) {
	if err := sandbox.ValidateRequestID(requestID); err != nil {
		return sandbox.Execution{}, err
	}
	rec, err := m.Store.ExecutionByRequest(ctx, sandbox.OwnerOf(ctx), requestID)
	if requestID == "" || errors.Is(err, store.ErrNotFound) {
		return sandbox.Execution{}, sandbox.Errorf(sandbox.NotFound, "no execution has the request_id %q", sandbox.Quote(requestID))
	}
	if err != nil {
		return sandbox.Execution{}, err
	}
	e, err := m.GetExecution(ctx, string(rec.ID), 0, sandbox.NoOutput)
	if !e.OutputGone {
		e.NextOffset = 0 // nothing of it has been read
	}
	return e, err
}

// GetExecution returns an execution, waiting up to waitSeconds for its end. One whose
// sandbox has ended is answered from its record, without output.
func (m *Manager) GetExecution(ctx context.Context, id string, waitSeconds float64, w sandbox.Window) (sandbox.Execution, error) {
	if err := sandbox.ValidateWait(waitSeconds); err != nil {
		return sandbox.Execution{}, err
	}
	deadline := time.Now().Add(time.Duration(waitSeconds * float64(time.Second)))
	var e sandbox.Execution
	err := m.ask(ctx, id, deadline, func(ctx context.Context, b *box, id sandbox.ExecutionID) (err error) {
		e, err = b.guest.Execution(ctx, id, max(0, time.Until(deadline).Seconds()), w)
		return err
	}, &e)
	return e, err
}

// interruptTimeout is longer than the guest's ladder of signals.
const interruptTimeout = time.Minute

// Interrupt stops an execution and returns when it has stopped. One that is final is
// returned as it is.
func (m *Manager) Interrupt(ctx context.Context, id string) (sandbox.Execution, error) {
	var e sandbox.Execution
	err := m.ask(ctx, id, time.Now().Add(interruptTimeout), func(ctx context.Context, b *box, id sandbox.ExecutionID) (err error) {
		b.use(m.now())
		e, err = b.guest.Interrupt(ctx, id)
		return err
	}, &e)
	return e, err
}

// FollowExecution calls fn with each event from number from on, in order, until the
// execution is final, and survives lost connections. If the sandbox ends before, a last
// status event says lost.
func (m *Manager) FollowExecution(ctx context.Context, id string, from int64, fn func(sandbox.Event) error) error {
	from = max(from, 1)
	var refused error // fn's
	var e sandbox.Execution
	err := m.ask(ctx, id, time.Now().Add((sandbox.MaxTimeoutSeconds+600)*2*time.Second), func(ctx context.Context, b *box, id sandbox.ExecutionID) error {
		for failures := 0; ; failures++ {
			err := b.guest.Events(ctx, id, from, func(ev sandbox.Event) error {
				if ev.Type == sandbox.EventStatus && ev.State.Final() {
					state, err := m.recordedEnd(ctx, b, id)
					if err != nil {
						return err
					}
					ev.State = state
				}
				from, failures = ev.Seq+1, 0
				refused = fn(ev)
				return refused
			})
			if refused != nil {
				return nil
			}
			if err == nil || answered(err) || ctx.Err() != nil || failures > 0 {
				return err
			}
		}
	}, &e)
	switch {
	case refused != nil:
		return refused
	case err != nil:
		return err
	case e.ID != "": // from its record: there is nobody left to ask
		return fn(sandbox.Event{Seq: from, Type: sandbox.EventStatus, Time: e.EndTime, Offset: e.OutputBytes, State: e.State})
	}
	return nil
}

// recordedEnd stores how an execution ended, after its guest has sent the final event, and returns the state that is on record.
func (m *Manager) recordedEnd(ctx context.Context, b *box, id sandbox.ExecutionID) (sandbox.ExecutionState, error) {
	before, _ := b.expected(id)
	e, err := b.guest.Execution(ctx, id, 0, sandbox.NoOutput)
	if err == nil {
		e, err = m.recordEnd(b, m.own(b, e, before.accepted))
	}
	return e.State, err
}

// ask has fn ask an execution's guest. What ctx's owner does not see is not there. When there is no guest that knows the answer, e
// is what the record says. A final answer in e is put on record.
func (m *Manager) ask(ctx context.Context, name string, deadline time.Time, fn func(context.Context, *box, sandbox.ExecutionID) error, e *sandbox.Execution) error {
	id, err := sandbox.ParseExecutionID(name)
	if err != nil {
		return err
	}
	for {
		rec, err := m.Store.ExecutionFor(ctx, sandbox.OwnerOf(ctx), id)
		if errors.Is(err, store.ErrNotFound) {
			return noExecution(name)
		}
		if err != nil {
			return err
		}
		b := m.running(rec.SandboxID)
		if b == nil {
			return m.fromRecord(ctx, id, e)
		}
		before, waiting := b.expected(id)
		err = m.call(ctx, b, time.Until(deadline)+answerTimeout, twice, func(ctx context.Context) error { return fn(ctx, b, id) })
		switch {
		case err == nil:
			if e.ID == "" {
				return nil
			}
			if *e = m.own(b, *e, rec.Execution); !rec.State.Final() {
				*e, err = m.recordEnd(b, *e)
			}
			return err
		case !b.alive():
			return m.fromRecord(ctx, id, e)
		case !answered(err) || sandbox.KindOf(err) != sandbox.NotFound:
			return err
		case !waiting: // it was final long ago, and the guest has forgotten it
			return m.fromRecord(ctx, id, e)
		case before.delivering == 0 && m.neverRan(b, id, before):
			return m.fromRecord(ctx, id, e)
		case time.Now().After(deadline):
			return m.fromRecord(ctx, id, e)
		}
		select {
		case <-time.After(handingOver):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// fromRecord answers without a guest. It reads the record again, because the call to the guest may have changed it: the
// sandbox can have ended, or gone back to a checkpoint.
func (m *Manager) fromRecord(ctx context.Context, id sandbox.ExecutionID, e *sandbox.Execution) error {
	rec, err := m.Store.Execution(context.WithoutCancel(ctx), id)
	if errors.Is(err, store.ErrNotFound) { // it was refused
		return noExecution(string(id))
	}
	if err != nil {
		return err
	}
	*e = rec.Execution
	if e.State.Final() {
		e.NextOffset = e.OutputBytes
		e.OutputGone = !e.StartTime.IsZero()
		if e.OutputGone && e.Reason == "" {
			e.Reason = m.whyOutputGone(ctx, rec.SandboxID)
		}
	}
	return nil
}

func (m *Manager) whyOutputGone(ctx context.Context, id sandbox.ID) string {
	rec, err := m.Store.Sandbox(ctx, id)
	if err != nil || rec.State != sandbox.Terminated {
		return "its output was dropped to make room"
	}
	return "its output went with its sandbox: " + rec.Reason
}

func noExecution(name string) error {
	return sandbox.Errorf(sandbox.NotFound, "there is no execution %q", sandbox.Quote(name))
}

// running returns the box of a sandbox that runs, or nil.
func (m *Manager) running(id sandbox.ID) *box {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.boxes[id]
}
