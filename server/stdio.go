package server

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	c, err := s.open(ctx, func(b []byte) error {
		_, err := out.Write(append(b, '\n'))
		return err
	})
	if err != nil {
		return err
	}
	defer c.close()
	ctx = c.ctx

	ended := make(chan error, 1)
	go func() { ended <- c.readAll(ctx, newLines(in, s.config.MaxMessageBytes)) }()
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
	c.broken(nil)
	c.drained(context.WithoutCancel(ctx), time.Second) // what is left ends at once now
	return err
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
			c.dispatch(ctx, m, func() {})
		}
	}
	return nil
}
