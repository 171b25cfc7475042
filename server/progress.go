package server

import (
	"context"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	mcpserver "github.com/mark3labs/mcp-go/server"

	"github.com/dormouse-sandbox/dormouse/tools"
)

// notifier is a session whose method notify writes the notification before it returns. For other sessions, mcp-go passes
// notifications to another goroutine, so a notification sent right before the result may get lost or arrive after the result.
type notifier interface {
	notify(n mcp.JSONRPCNotification) error
}

// settleTime is the minimum time between a notification that another goroutine writes and the result after it.
const settleTime = 5 * time.Millisecond

// withProgress returns a context in which a tool can report progress, if the client asked for it. The caller must call
// settle before the result is sent: settle waits until the last notification is likely to have been written.
func (s *Server) withProgress(ctx context.Context, r mcp.CallToolRequest) (_ context.Context, settle func()) {
	if r.Params.Meta == nil || r.Params.Meta.ProgressToken == nil {
		return ctx, func() {}
	}
	token := r.Params.Meta.ProgressToken
	session := mcpserver.ClientSessionFromContext(ctx)
	var lastSent time.Time // lastSent needs no lock, because tools report progress only from the call's goroutine
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
		lastSent = time.Now()
		_ = s.mcp.SendNotificationToClient(ctx, "notifications/progress", params)
	})
	return ctx, func() {
		if wait := settleTime - time.Since(lastSent); !lastSent.IsZero() && wait > 0 {
			time.Sleep(wait)
		}
	}
}

// hooks returns hooks that delay the result of subscriptions/listen, so that it is written after the acknowledgement.
// Dormouse has nothing to subscribe to, so without the delay the result would follow the acknowledgement immediately, and
// could be written before it.
func hooks() *mcpserver.Hooks {
	h := &mcpserver.Hooks{}
	h.AddAfterSubscriptionsListen(func(context.Context, any, *mcp.SubscriptionsListenRequest, *mcp.SubscriptionsListenResult) {
		time.Sleep(settleTime)
	})
	return h
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
