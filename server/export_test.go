package server

import (
	"context"

	mcpserver "github.com/mark3labs/mcp-go/server"
)

// MCP returns the mcp-go server, to which tests add fixtures that are not tools.
func (s *Server) MCP() *mcpserver.MCPServer { return s.mcp }

// AwaitMessages waits until n messages were written to the response of the request that ctx belongs to. Fixtures call it,
// because they send notifications through mcp-go, which may otherwise lose them (see progress.go).
func AwaitMessages(ctx context.Context, n int) { messagesOf(ctx).await(ctx, n) }
