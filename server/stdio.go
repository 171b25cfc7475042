package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
)

// ServeStdio speaks MCP on one connection, one JSON-RPC message a line, until in
// ends or ctx does. Then calls in flight have a grace to be answered. It returns nil
// when the client has closed in, and an error when the connection broke or ctx ended.
// A read from in may still be blocked when it returns.
//
// It has its own loop around mcp-go's HandleMessage, because mcp-go's drops a last
// line without a newline, cancels calls at the end of input, runs calls on the read
// loop when its queue is full (so that nothing can be cancelled), loses a cancellation
// that overtakes its call, has one session for all connections, and reads lines of
// any length.
func (s *Server) ServeStdio(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := &connection{server: s, out: out, broken: cancel, calls: map[string]*call{}, slots: make(chan struct{}, s.config.MaxCalls)}
	c.session = newSession(c.write)
	if err := s.mcp.RegisterSession(ctx, c.session); err != nil {
		return fmt.Errorf("register session: %w", err)
	}
	defer s.mcp.UnregisterSession(context.WithoutCancel(ctx), c.session.id)
	ctx = s.mcp.WithContext(ctx, c.session)
	go c.session.forward(ctx)

	ended := make(chan error, 1)
	go func() { ended <- c.readAll(ctx, newLines(in, s.config.MaxMessageBytes)) }()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if !c.drained(ctx, s.config.Grace) && ctx.Err() == nil {
		s.log.Info("the client has gone; executions of its last calls go on by themselves")
	}
	if err == nil {
		err = context.Cause(ctx) // the connection broke on the way out, or the caller ended it
	}
	cancel(nil)
	c.drained(context.WithoutCancel(ctx), time.Second) // what is left ends at once now
	return err
}

// maxInFlight bounds the requests that run or wait; more are refused.
const maxInFlight = 1000

// busy is the JSON-RPC error code of a refused request.
const busy = -32000

// connection is one client.
type connection struct {
	server  *Server
	session *session
	broken  context.CancelCauseFunc

	writing sync.Mutex
	out     io.Writer

	running sync.WaitGroup
	slots   chan struct{} // tool calls at once

	mu    sync.Mutex
	calls map[string]*call // in flight, by id as it was written
}

// call is a request in flight. A cancelled one gets no answer, as the protocol wants.
type call struct {
	cancel    context.CancelFunc
	cancelled bool
}

// write sends one message. Messages of several goroutines don't mix.
func (c *connection) write(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	b = append(b, '\n')
	c.writing.Lock()
	defer c.writing.Unlock()
	if _, err := c.out.Write(b); err != nil {
		err = fmt.Errorf("write to client: %w", err)
		c.broken(err)
		return err
	}
	return nil
}

func (c *connection) readAll(ctx context.Context, in *lines) error {
	for ctx.Err() == nil {
		line, err := in.next()
		if long, ok := errors.AsType[*tooLong](err); ok {
			c.reject(rejection{id: long.idOf(), code: mcp.INVALID_REQUEST,
				text: fmt.Sprintf("the message is longer than %d MiB, the limit of one message", in.max>>20)})
			continue
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read from client: %w", err)
		}
		m, refused := parse(line)
		switch {
		case refused != nil:
			c.reject(*refused)
		case m != nil:
			c.dispatch(ctx, m)
		}
	}
	return nil
}

func (c *connection) reject(r rejection) {
	var id any
	if r.id != nil {
		id = r.id
	}
	// A failed write ends the connection by itself.
	_ = c.write(mcp.JSONRPCError{JSONRPC: mcp.JSONRPC_VERSION, ID: mcp.NewRequestId(id), Error: mcp.NewJSONRPCErrorDetails(r.code, r.text, nil)})
}

// dispatch starts what a message asks for, and is back at once, so that a
// cancellation is always read.
func (c *connection) dispatch(ctx context.Context, m *message) {
	switch {
	case m.method == "notifications/cancelled":
		c.cancelCall(m)
	case m.id == nil, m.method == string(mcp.MethodInitialize):
		c.answer(ctx, m) // fast, and what follows may depend on it
	default:
		ctx, cancel := context.WithCancel(ctx)
		key, this := string(m.id), &call{cancel: cancel}
		c.mu.Lock()
		full := len(c.calls) >= maxInFlight
		if !full {
			c.calls[key] = this
		}
		c.mu.Unlock()
		if full {
			cancel()
			c.reject(rejection{id: m.id, code: busy, text: fmt.Sprintf("more than %d requests are in flight: wait for answers", maxInFlight)})
			return
		}
		c.running.Go(func() {
			defer cancel()
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
		select {
		case c.slots <- struct{}{}:
			defer func() { <-c.slots }()
		case <-ctx.Done():
			return
		}
	}
	response := c.handle(ctx, m)
	c.mu.Lock()
	cancelled := this.cancelled
	c.mu.Unlock()
	if response != nil && !cancelled {
		_ = c.write(response) // a failed write ends the connection by itself
	}
}

func (c *connection) answer(ctx context.Context, m *message) {
	if response := c.handle(ctx, m); response != nil {
		_ = c.write(response) // a failed write ends the connection by itself
	}
}

// handle lets mcp-go do its work. A panic in it is answered without its text.
func (c *connection) handle(ctx context.Context, m *message) (response mcp.JSONRPCMessage) {
	defer func() {
		if p := recover(); p != nil {
			c.server.log.Error("a request panicked", "method", m.method, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			if m.id != nil {
				response = mcp.JSONRPCError{JSONRPC: mcp.JSONRPC_VERSION, ID: mcp.NewRequestId(m.id), Error: mcp.NewJSONRPCErrorDetails(mcp.INTERNAL_ERROR, "internal error", nil)}
			}
		}
	}()
	return c.server.mcp.HandleMessage(ctx, m.raw)
}

// cancelCall stops waiting for a call. What it started in a sandbox goes on.
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
		this.cancel()
	}
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
