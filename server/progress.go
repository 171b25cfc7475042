package server

import (
	"context"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	mcpserver "github.com/mark3labs/mcp-go/server"

	"github.com/dormouse-sandbox/dormouse/tools"
)

// notifier is a session that writes a notification before it returns. Where a
// session cannot, mcp-go hands notifications to another goroutine, and one sent right
// before the result gets lost or comes after it.
type notifier interface {
	notify(n mcp.JSONRPCNotification) error
}

// settleTime is how long a result waits after a notification that is on its way.
const settleTime = 5 * time.Millisecond

// withProgress lets a tool report progress, if the client asked for it. settle must
// be called before the result goes out.
func (s *Server) withProgress(ctx context.Context, r mcp.CallToolRequest) (_ context.Context, settle func()) {
	if r.Params.Meta == nil || r.Params.Meta.ProgressToken == nil {
		return ctx, func() {}
	}
	token := r.Params.Meta.ProgressToken
	session := mcpserver.ClientSessionFromContext(ctx)
	var lastSent time.Time // tools report from the call's own goroutine only
	ctx = tools.WithProgress(ctx, func(elapsed time.Duration, line string) {
		params := map[string]any{"progressToken": token, "progress": elapsed.Seconds()}
		if line != "" {
			params["message"] = line
		}
		if direct, ok := session.(notifier); ok {
			// A client that cannot be written to will not get the result either.
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

// hooks let the acknowledgement of subscriptions/listen out before its result. There is
// nothing to subscribe to, so one follows the other at once.
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
