package server

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/server/spool"
)

// ServeStdio serves MCP on one connection, with one JSON-RPC message on each line, until the input (in) or ctx ends. When
// the input ends, it waits up to Config.Grace for the answers to the calls in flight and returns nil. When ctx ends or the
// connection breaks, it returns an error. A read from in may still be blocked when ServeStdio
// returns.
//
// ServeStdio does not use mcp-go's read loop, because that loop drops a last line without a newline, cancels calls at the
// end of the input, runs calls itself when its queue is full (so that nothing can be cancelled), loses a cancellation that
// overtakes its call, uses one session for all connections, and reads lines of any length.
func (s *Server) ServeStdio(ctx context.Context, in io.Reader, out io.Writer) error {
	c, err := s.open(ctx, func(b []byte, outbox *spool.Outbox) error {
		return outbox.Send(out, append(b, '\n'))
	})
	if err != nil {
		return err
	}
	defer c.close()
	ctx = c.ctx

	ended := make(chan error, 1)
	go func() { ended <- c.readAll(ctx, newLines(in, s.config.Spool, s.config.MaxMessageBytes)) }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if !c.awaitCalls(ctx, s.config.Grace) && ctx.Err() == nil {
		s.log.Info("the client has disconnected; the executions of its last calls continue")
	}
	if err == nil {
		err = context.Cause(ctx) // the reason if a write failed or the caller ended ctx; nil otherwise
	}
	c.broken(nil)
	c.awaitCalls(context.WithoutCancel(ctx), time.Second) // c.broken has cancelled the remaining calls, so they end soon
	return err
}

func (c *connection) readAll(ctx context.Context, in *lines) error {
	for ctx.Err() == nil {
		m, refused, err := in.next()
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("read from client: %w", err)
		case refused != nil:
			c.reject(*refused)
		case m != nil:
			c.admit(ctx, m)
		}
	}
	return nil
}

// admit dispatches a message if it fits into the budget for messages in memory, and rejects it otherwise. It gives the
// bytes back when the call ends. Notifications are not counted, because they are handled before the next message is read.
func (c *connection) admit(ctx context.Context, m *message) {
	owner, n := sandbox.OwnerOf(ctx), int64(len(m.raw))
	if m.id == nil {
		n = 0
	}
	if !c.server.requests.Take(owner, n) {
		m.close()
		c.reject(rejection{id: m.id, code: busy, text: fmt.Sprintf("the messages in flight would take more than %d MiB of memory together: wait for answers, and send this again", c.server.config.RequestBytes>>20)})
		return
	}
	c.dispatch(ctx, m, func() {
		m.close()
		c.server.requests.Give(owner, n)
	})
}
