package server

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"runtime/debug"
	"sync"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
	"github.com/dormouse-sandbox/dormouse/server/spool"
	"github.com/dormouse-sandbox/dormouse/tools"
)

// maxInFlight bounds the requests that run or wait; more are refused.
const maxInFlight = 1000

// waitsPerCall is how many calls may wait for an execution for each call that may work at once.
const waitsPerCall = 4

// busy is the JSON-RPC error code of a refused request.
const busy = -32000

// connection is one client that has a way back: stdio, or an SSE stream.
type connection struct {
	server  *Server
	session *session
	ctx     context.Context // of its requests; ends with the connection
	broken  context.CancelCauseFunc

	writing sync.Mutex
	send    func([]byte, *spool.Outbox) error

	running sync.WaitGroup
	slots   *slots // of working tool calls; the slots are the connection's own, so all owners take them as the operator
	waits   *slots // of tool calls that wait for an execution

	mu    sync.Mutex
	calls map[string]*call // in flight, by id as it was written
}

// call is a request in flight. A cancelled one gets no answer, as the protocol wants.
type call struct {
	raw       []byte // the request
	cancel    context.CancelCauseFunc
	cancelled bool
}

// open begins a connection whose messages go out by send, one at a time. A failed send ends it.
func (s *Server) open(ctx context.Context, send func([]byte, *spool.Outbox) error) (*connection, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	c := &connection{server: s, send: send, broken: cancel, calls: map[string]*call{}, slots: newSlots(s.config.MaxCalls, math.MaxInt64), waits: newSlots(waitsPerCall*s.config.MaxCalls, 0)}
	c.session = newSession(func(v any) error { return c.write(v, nil) })
	if err := s.mcp.RegisterSession(ctx, c.session); err != nil {
		cancel(nil)
		return nil, fmt.Errorf("register session: %w", err)
	}
	c.ctx = s.mcp.WithContext(ctx, c.session)
	go c.session.forward(c.ctx)
	return c, nil
}

// close ends what is still in flight, without waiting for it. Executions go on.
func (c *connection) close() {
	c.broken(nil)
	c.server.mcp.UnregisterSession(context.WithoutCancel(c.ctx), c.session.id)
}

// write sends one message, with what box has for it. Messages of several goroutines don't mix.
func (c *connection) write(v any, box *spool.Outbox) error {
	return c.writeAnswer(&message{}, v, box)
}

// writeAnswer sends the answer to m.
func (c *connection) writeAnswer(m *message, v any, box *spool.Outbox) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	b = m.exactly(b)
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.send(b, box); err != nil {
		err = fmt.Errorf("write to client: %w", err)
		c.broken(err)
		return err
	}
	return nil
}

func (c *connection) reject(r rejection) {
	if r.cause != nil {
		c.server.log.Error("a message cannot be taken", "error", r.cause)
	}
	_ = c.write(r.response(), nil) // a failed write ends the connection by itself
}

// dispatch starts what a message asks for, and is back at once, so that a
// cancellation is always read. done is called when the message is not needed any more.
func (c *connection) dispatch(ctx context.Context, m *message, done func()) {
	switch {
	case m.method == "notifications/cancelled":
		defer done()
		c.cancelCall(m)
	case m.id == nil, m.method == string(mcp.MethodInitialize):
		defer done()
		c.answer(ctx, m) // fast, and what follows may depend on it
	default:
		ctx, cancel := context.WithCancelCause(ctx)
		key, this := string(m.id), &call{raw: m.raw, cancel: cancel}
		c.mu.Lock()
		full := len(c.calls) >= maxInFlight
		if !full {
			c.calls[key] = this
		}
		c.mu.Unlock()
		if full {
			cancel(nil)
			done()
			c.reject(rejection{id: m.id, code: busy, text: fmt.Sprintf("more than %d requests are in flight: wait for answers", maxInFlight)})
			return
		}
		c.running.Go(func() {
			defer done()
			defer cancel(nil)
			c.serve(ctx, m, this)
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.calls[key] == this { // an id that was used twice belongs to the later one
				delete(c.calls, key)
			}
		})
	}
}

// serve handles a request that may take long.
func (c *connection) serve(ctx context.Context, m *message, this *call) {
	if m.method == string(mcp.MethodToolsCall) {
		place, ok := newSeat(ctx, c.slots, c.waits, sandbox.Operator)
		if !ok {
			return // the call was cancelled
		}
		defer place.leave()
		ctx = wire.WithWaiting(ctx, place.wait, place.resume)
	}
	ctx, release := c.server.answers.WithBudget(ctx)
	defer release()
	box := c.server.config.Spool.NewOutbox()
	defer box.Close()
	response := c.handle(c.server.withOutbox(ctx, box), m)
	c.mu.Lock()
	cancelled := this.cancelled
	c.mu.Unlock()
	if response != nil && !cancelled {
		_ = c.writeAnswer(m, response, box) // a failed write ends the connection by itself
	}
}

func (c *connection) answer(ctx context.Context, m *message) {
	if response := c.handle(ctx, m); response != nil {
		_ = c.writeAnswer(m, response, nil) // a failed write ends the connection by itself
	}
}

// handle lets mcp-go do its work. A panic in it is answered without its text.
func (c *connection) handle(ctx context.Context, m *message) (response mcp.JSONRPCMessage) {
	defer func() {
		if p := recover(); p != nil {
			c.server.logPanic(m, p)
			if m.id != nil {
				response = rejection{id: m.id, code: mcp.INTERNAL_ERROR, text: "internal error"}.response()
			}
		}
	}()
	return c.server.mcp.HandleMessage(withLong(ctx, m), m.raw)
}

func (s *Server) logPanic(m *message, p any) {
	s.log.Error("a request panicked", "method", fmt.Sprintf("%+.100q", m.method), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
}

// cancelCall stops waiting for a call. What it started in a sandbox goes on, unless the call speaks the protocol
// of 2026-07-28 or later: clients of the ones before cancel what takes them too long, and ask for it again.
func (c *connection) cancelCall(m *message) {
	var n struct {
		Params struct {
			RequestID json.RawMessage `json:"requestId"`
		} `json:"params"`
	}
	if json.Unmarshal(m.raw, &n) != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if this := c.calls[string(n.Params.RequestID)]; this != nil {
		this.cancelled = true
		if modern(this.raw) {
			this.cancel(tools.ErrUnwanted)
		} else {
			this.cancel(nil)
		}
	}
}

// modern reports whether a request says itself which protocol it speaks, as all have done since 2026-07-28.
func modern(request []byte) bool {
	var r struct {
		Params struct {
			Meta struct {
				Protocol string `json:"io.modelcontextprotocol/protocolVersion"`
			} `json:"_meta"`
		} `json:"params"`
	}
	return json.Unmarshal(request, &r) == nil && r.Params.Meta.Protocol >= "2026-07-28"
}

// drained waits until no call is in flight, at most as long as grace.
func (c *connection) drained(ctx context.Context, grace time.Duration) bool {
	done := make(chan struct{})
	go func() { c.running.Wait(); close(done) }()
	select {
	case <-done:
		return true
	case <-ctx.Done():
	case <-time.After(grace):
	}
	return false
}
