package manager

import (
	"context"
	"errors"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// deliveryInterval is the interval at which ask retries for an execution that is being delivered to the guest.
const deliveryInterval = 20 * time.Millisecond

// FindExecution returns the execution that a request with this id created, without output. The caller must have
// validated requestID.
func (m *Manager) FindExecution(ctx context.Context, requestID string) (sandbox.Execution, error) {
	rec, err := m.store.ExecutionByRequest(ctx, sandbox.OwnerOf(ctx), requestID)
	if errors.Is(err, store.ErrNotFound) {
		return sandbox.Execution{}, sandbox.Errorf(sandbox.NotFound, "no execution has the request_id %q", sandbox.Quote(requestID))
	}
	if err != nil {
		return sandbox.Execution{}, err
	}
	e, err := m.GetExecution(ctx, string(rec.ID), 0, sandbox.NoOutput)
	if !e.OutputGone {
		e.NextOffset = 0 // this call has read no output, so the client reads from the start
	}
	return e, err
}

// GetExecution returns an execution, after waiting up to waitSeconds for its end. It does not wait if waitSeconds
// is zero or negative. If the sandbox was terminated, GetExecution returns the record, which has no output.
func (m *Manager) GetExecution(ctx context.Context, id string, waitSeconds float64, w sandbox.Window) (sandbox.Execution, error) {
	deadline := time.Now().Add(time.Duration(waitSeconds * float64(time.Second)))
	var e sandbox.Execution
	err := m.ask(ctx, id, deadline, func(ctx context.Context, s *liveSandbox, id sandbox.ExecutionID) (err error) {
		e, err = s.guest.Execution(ctx, id, max(0, time.Until(deadline).Seconds()), w)
		return err
	}, &e)
	return e, err
}

// interruptTimeout is longer than the guest needs to try SIGINT, SIGTERM and SIGKILL.
const interruptTimeout = time.Minute

// Interrupt stops an execution and returns when it has stopped. It returns a final execution unchanged.
func (m *Manager) Interrupt(ctx context.Context, id string) (sandbox.Execution, error) {
	var e sandbox.Execution
	err := m.ask(ctx, id, time.Now().Add(interruptTimeout), func(ctx context.Context, s *liveSandbox, id sandbox.ExecutionID) (err error) {
		s.use(m.now())
		e, err = s.guest.Interrupt(ctx, id)
		return err
	}, &e)
	return e, err
}

// FollowExecution calls fn with each event whose number is at least from, in order, until the execution is final.
// It reconnects when the connection to the guest is lost. If the sandbox is terminated first, the last event is a
// status event with the state "lost". If fn returns an error, FollowExecution stops and returns that error.
func (m *Manager) FollowExecution(ctx context.Context, id string, from int64, fn func(sandbox.Event) error) error {
	from = max(from, 1)
	var refused error // the error that fn returned
	var e sandbox.Execution
	err := m.ask(ctx, id, time.Now().Add((sandbox.MaxTimeoutSeconds+600)*2*time.Second), func(ctx context.Context, s *liveSandbox, id sandbox.ExecutionID) error {
		for failures := 0; ; failures++ {
			err := s.guest.Events(ctx, id, from, func(ev sandbox.Event) error {
				if ev.Type == sandbox.EventStatus && ev.State.Final() {
					state, err := s.queryEnd(ctx, id)
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
			if err == nil || isAnswer(err) || ctx.Err() != nil || failures > 0 {
				return err
			}
		}
	}, &e)
	switch {
	case refused != nil:
		return refused
	case err != nil:
		return err
	case e.ID != "": // ask used the record, because no guest can send the events
		return fn(sandbox.Event{Seq: from, Type: sandbox.EventStatus, Time: e.EndTime, Offset: e.OutputBytes, State: e.State})
	}
	return nil
}

// queryEnd stores how an execution ended, after its guest has sent the final event, and returns the state that is
// on record.
func (s *liveSandbox) queryEnd(ctx context.Context, id sandbox.ExecutionID) (sandbox.ExecutionState, error) {
	before, _ := s.executions.Get(id)
	e, err := s.guest.Execution(ctx, id, 0, sandbox.NoOutput)
	if err == nil {
		e, err = s.recordEnd(s.complete(e, before.Accepted))
	}
	return e.State, err
}

// ask finds the execution whose id is name, and calls fn to send a request to its guest. It returns a not-found
// error if ctx's owner may not see the execution. If the sandbox was terminated, or its guest does not have the
// execution any more, ask sets e to the record instead. If fn sets e to a final execution, ask records its end and
// updates e. ask can call fn several times: while an execution is being delivered to the guest, it retries until
// deadline.
func (m *Manager) ask(ctx context.Context, name string, deadline time.Time, fn func(context.Context, *liveSandbox, sandbox.ExecutionID) error, e *sandbox.Execution) error {
	id, err := sandbox.ParseExecutionID(name)
	if err != nil {
		return err
	}
	for {
		rec, err := m.store.ExecutionFor(ctx, sandbox.OwnerOf(ctx), id)
		if errors.Is(err, store.ErrNotFound) {
			return noExecution(name)
		}
		if err != nil {
			return err
		}
		s := m.created(rec.SandboxID)
		if s == nil {
			return m.fromRecord(ctx, id, e)
		}
		before, pending := s.executions.Get(id)
		err = s.call(ctx, time.Until(deadline)+answerTimeout, twice, func(ctx context.Context) error { return fn(ctx, s, id) })
		switch {
		case err == nil:
			if e.ID == "" {
				return nil
			}
			if *e = s.complete(*e, rec.Execution); !rec.State.Final() {
				*e, err = s.recordEnd(*e)
			}
			return err
		case s.isTerminated():
			return m.fromRecord(ctx, id, e)
		case !isAnswer(err) || sandbox.KindOf(err) != sandbox.NotFound:
			return err
		case !pending: // the execution was final before this call, and the guest no longer has it
			return m.fromRecord(ctx, id, e)
		case before.Sending == 0 && s.recordNeverRan(id, before):
			return m.fromRecord(ctx, id, e)
		case time.Now().After(deadline):
			return m.fromRecord(ctx, id, e)
		}
		select {
		case <-time.After(deliveryInterval):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// fromRecord sets e to the execution's record. It reads the record again, because it may have changed during
// the call to the guest: the sandbox may have been terminated or rewound.
func (m *Manager) fromRecord(ctx context.Context, id sandbox.ExecutionID, e *sandbox.Execution) error {
	rec, err := m.store.Execution(context.WithoutCancel(ctx), id)
	if errors.Is(err, store.ErrNotFound) { // the guest refused the execution, so its record was removed
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
	rec, err := m.store.Sandbox(ctx, id)
	if err != nil || rec.State != sandbox.Terminated {
		return "its output was deleted to free space for newer output"
	}
	return "its output was deleted with its sandbox: " + rec.Reason
}

func noExecution(name string) error {
	return sandbox.Errorf(sandbox.NotFound, "there is no execution %q", sandbox.Quote(name))
}
