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

// maxInFlight is the maximum number of requests of one connection that run or wait. Further requests are refused.
const maxInFlight = 1000

// waitsPerCall times Config.MaxCalls is the maximum number of tool calls on one connection that wait for an execution.
const waitsPerCall = 4

// busy is the JSON-RPC error code of a refused request.
const busy = -32000

// connection is one client on a transport where the server can send messages at any time: stdio or an SSE stream.
type connection struct {
	server  *Server
	session *session
	ctx     context.Context         // the parent of the requests' contexts; ends with the connection
	broken  context.CancelCauseFunc // ends the field ctx; its argument is the error that broke the connection, or nil

	writing sync.Mutex // held while a message is sent
	send    func([]byte, *spool.Outbox) error

	running sync.WaitGroup
	// slots limits the tool calls of this connection that do not wait for an execution. No other connection uses these slots,
	// so they are acquired as the operator, for whom there is no limit per owner.
	slots *slots
	waits *slots // limits tool calls that wait for an execution

	mu    sync.Mutex
	calls map[string]*call // the requests in flight, by the JSON text of their id
}

// call is a request in flight. The server does not answer a cancelled request, as the protocol requires.
type call struct {
	raw       []byte // the JSON text of the request
	cancel    context.CancelCauseFunc
	cancelled bool
}

// open returns a new connection. The connection calls send for each outgoing message, one call at a time, and ends when
// send fails. The caller must call close.
func (s *Server) open(ctx context.Context, send func([]byte, *spool.Outbox) error) (*connection, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	c := &connection{server: s, send: send, broken: cancel, calls: map[string]*call{}, slots: newSlots(s.config.MaxCalls, math.MaxInt64), waits: newSlots(waitsPerCall*s.config.MaxCalls, 0)}
	c.session = newSession(func(v any) error { return c.write(v, nil) })
	if err := s.mcp.RegisterSession(ctx, c.session); err != nil {
		cancel(nil)
		return nil, fmt.Errorf("register session: %w", err)
	}
	c.ctx = s.mcp.WithContext(ctx, c.session)
	return c, nil
}

// close cancels the requests in flight without waiting for them. Their executions continue.
func (c *connection) close() {
	c.broken(nil)
	c.server.mcp.UnregisterSession(context.WithoutCancel(c.ctx), c.session.id)
}

// write sends one message, with the files of outbox in place of their placeholders. It may be called concurrently.
func (c *connection) write(v any, outbox *spool.Outbox) error {
	return c.writeAnswer(&message{}, v, outbox)
}

// writeAnswer sends v as the answer to m, with the files of outbox in place of their placeholders.
func (c *connection) writeAnswer(m *message, v any, outbox *spool.Outbox) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	b = m.restoreID(b)
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.send(b, outbox); err != nil {
		err = fmt.Errorf("write to client: %w", err)
		c.broken(err)
		return err
	}
	return nil
}

func (c *connection) reject(r rejection) {
	if r.cause != nil {
		c.server.log.Error("a message was refused because it could not be stored", "error", r.cause)
	}
	_ = c.write(r.response(), nil) // a failed write ends the connection
}

// dispatch handles a message. It runs slow requests in a goroutine, so that the connection can always read the next
// message, which may be a cancellation. It calls done when m is no longer needed.
func (c *connection) dispatch(ctx context.Context, m *message, done func()) {
	switch {
	case m.method == "notifications/cancelled":
		defer done()
		c.cancelCall(m)
	case m.id == nil, m.method == string(mcp.MethodInitialize):
		defer done()
		c.answer(ctx, m) // initialize and notifications are fast, and the next message may depend on them
	default:
		ctx, cancel := context.WithCancelCause(ctx)
		key, inFlight := string(m.id), &call{raw: m.raw, cancel: cancel}
		c.mu.Lock()
		full := len(c.calls) >= maxInFlight
		if !full {
			c.calls[key] = inFlight
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
			c.serve(ctx, m, inFlight)
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.calls[key] == inFlight { // if two requests have the same id, the entry belongs to the later request
				delete(c.calls, key)
			}
		})
	}
}

// serve handles a request that may take long, and sends the answer.
func (c *connection) serve(ctx context.Context, m *message, inFlight *call) {
	if m.method == string(mcp.MethodToolsCall) {
		place, ok := newRequestSlot(ctx, c.slots, c.waits, sandbox.Operator)
		if !ok {
			return // the call was cancelled
		}
		defer place.leave()
		ctx = wire.WithWaiting(ctx, place.wait, place.resume)
	}
	ctx, release := c.server.answers.WithBudget(ctx)
	defer release()
	outbox := c.server.config.Spool.NewOutbox()
	defer outbox.Close()
	response := c.handle(c.server.withOutbox(ctx, outbox), m)
	c.mu.Lock()
	cancelled := inFlight.cancelled
	c.mu.Unlock()
	if response != nil && !cancelled {
		_ = c.writeAnswer(m, response, outbox) // a failed write ends the connection
	}
}

func (c *connection) answer(ctx context.Context, m *message) {
	if response := c.handle(ctx, m); response != nil {
		_ = c.writeAnswer(m, response, nil) // a failed write ends the connection
	}
}

// handle passes m to mcp-go, writes the notifications that mcp-go has queued, and returns the response. If mcp-go panics, the
// response to a request is an internal error that does not contain the text of the panic.
func (c *connection) handle(ctx context.Context, m *message) (response mcp.JSONRPCMessage) {
	defer func() {
		if p := recover(); p != nil {
			c.server.logPanic(m, p)
			if m.id != nil {
				response = rejection{id: m.id, code: mcp.INTERNAL_ERROR, text: "internal error"}.response()
			}
		}
	}()
	response = c.server.mcp.HandleMessage(withLong(ctx, m), m.raw)
	c.session.flush()
	return response
}

func (s *Server) logPanic(m *message, p any) {
	s.log.Error("a request panicked", "method", fmt.Sprintf("%+.100q", m.method), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
}

// cancelCall ends the call that the notification m names. It interrupts the call's execution only if the call uses
// protocol version 2026-07-28 or later. Clients of earlier versions cancel calls that take too long and then call again
// to get the result, so their executions continue.
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
	if inFlight := c.calls[string(n.Params.RequestID)]; inFlight != nil {
		inFlight.cancelled = true
		if modern(inFlight.raw) {
			inFlight.cancel(tools.ErrUnwanted)
		} else {
			inFlight.cancel(nil)
		}
	}
}

// modern reports whether a request uses protocol version 2026-07-28 or later. Since that version every request names
// its protocol version.
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

// awaitCalls waits until no request is in flight, and reports false if grace or ctx ends before that.
func (c *connection) awaitCalls(ctx context.Context, grace time.Duration) bool {
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
