package server

import (
	"context"
	"sync"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	mcpserver "github.com/mark3labs/mcp-go/server"

	"github.com/dormouse-sandbox/dormouse/tools"
)

// This file makes sure that the notifications of a request are written before its result. mcp-go only queues a notification;
// another goroutine writes it, and may then write it after the result, or not at all:
//
//   - On stdio and SSE, [session] writes progress itself, and connection.handle writes the queue before the result.
//   - On streamable HTTP the queue is mcp-go's, so a request counts the notifications that it has queued, and waits until its
//     [response] has written as many messages.

// notifier is a session whose method notify writes the notification before it returns.
type notifier interface {
	notify(n mcp.JSONRPCNotification) error
}

// withProgress returns a context in which a tool can report progress, if the client asked for it. The caller must call
// settle before the result is sent: settle waits until all notifications have been written.
func (s *Server) withProgress(ctx context.Context, r mcp.CallToolRequest) (_ context.Context, settle func()) {
	if r.Params.Meta == nil || r.Params.Meta.ProgressToken == nil {
		return ctx, func() {}
	}
	token := r.Params.Meta.ProgressToken
	session := mcpserver.ClientSessionFromContext(ctx)
	queued := 0 // queued needs no lock, because tools report progress only from the call's goroutine
	ctx = tools.WithProgress(ctx, func(elapsed time.Duration, line string) {
		params := map[string]any{"progressToken": token, "progress": elapsed.Seconds()}
		if line != "" {
			params["message"] = line
		}
		if direct, ok := session.(notifier); ok {
			// The error needs no handling: sending the result will fail, too.
			_ = direct.notify(notification("notifications/progress", params))
			return
		}
		if s.mcp.SendNotificationToClient(ctx, "notifications/progress", params) == nil {
			queued++
		}
	})
	return ctx, func() { messagesOf(ctx).await(ctx, queued) }
}

// hooks returns hooks that delay the result of subscriptions/listen until the acknowledgement has been written. Dormouse has
// nothing to subscribe to, so the result follows the acknowledgement immediately.
func hooks() *mcpserver.Hooks {
	h := &mcpserver.Hooks{}
	h.AddAfterSubscriptionsListen(func(ctx context.Context, _ any, _ *mcp.SubscriptionsListenRequest, _ *mcp.SubscriptionsListenResult) {
		messagesOf(ctx).await(ctx, 1)
	})
	return h
}

// messageCount counts the messages that were written to a response.
type messageCount struct {
	mu      sync.Mutex
	written int
	more    chan struct{} // closed and replaced when written changes
}

func newMessageCount() *messageCount { return &messageCount{more: make(chan struct{})} }

func (c *messageCount) add() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.written++
	close(c.more)
	c.more = make(chan struct{})
}

// await waits until n messages were written, but at most writePatience, because each write succeeds or fails within that
// time. It returns earlier if ctx ends, and at once if c is nil.
func (c *messageCount) await(ctx context.Context, n int) {
	if c == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, writePatience)
	defer cancel()
	for {
		c.mu.Lock()
		written, more := c.written, c.more
		c.mu.Unlock()
		if written >= n {
			return
		}
		select {
		case <-more:
		case <-ctx.Done():
			return
		}
	}
}

type messagesKey struct{}

// withMessages returns a context in which messagesOf returns c.
func withMessages(ctx context.Context, c *messageCount) context.Context {
	return context.WithValue(ctx, messagesKey{}, c)
}

// messagesOf returns the count of the messages in the response to a request on streamable HTTP. It returns nil for requests
// on other transports.
func messagesOf(ctx context.Context) *messageCount {
	c, _ := ctx.Value(messagesKey{}).(*messageCount)
	return c
}

func notification(method string, params map[string]any) mcp.JSONRPCNotification {
	return mcp.JSONRPCNotification{
		JSONRPC: mcp.JSONRPC_VERSION,
		Notification: mcp.Notification{
			Method: method,
			Params: mcp.NotificationParams{AdditionalFields: params},
		},
	}
}
