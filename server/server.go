// Package server is the MCP server. It receives messages from clients over stdio, SSE and streamable HTTP, passes them to
// the library mcp-go, and runs the tool calls that mcp-go decodes with package tools. It adds the limits, the
// authentication and the cancellation that mcp-go lacks. It does not use Docker, engines or kernels. The command creates a
// server with [New], and an [HTTP] server for it with [NewHTTP].
//
//   - server.go: [Server], and the wrapper around every tool call (panics, progress)
//   - message.go: parsing a message before it is passed to mcp-go
//   - long.go: long strings of messages and answers, which are on disk (package spool)
//   - progress.go: progress notifications, which are sent before the result
//   - stdio.go: MCP on stdin and stdout; lines.go reads the lines
//   - sse.go: the SSE transport of protocol version 2024-11-05
//   - connection.go: one client on stdio or SSE, its requests in flight and its output; session.go is its session in mcp-go
//   - streamable.go: streamable HTTP, for all protocol versions
//   - http.go: [HTTP], with all its routes
//   - guard.go: the checks before a handler runs: authentication (address.go, token.go, tokenfile.go) and limits (conns.go,
//     slots.go, body.go, response.go)
//   - health.go, metrics.go: the routes for monitoring
//   - waits.go: [Waits], which ends waits for executions when the server stops
package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	mcpserver "github.com/mark3labs/mcp-go/server"

	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
	"github.com/dormouse-sandbox/dormouse/server/spool"
	"github.com/dormouse-sandbox/dormouse/tools"
)

// Config configures a [Server]. The zero value of each field is valid.
type Config struct {
	Version string
	Logger  *slog.Logger // nil: nothing is logged
	Metrics *Metrics     // nil: nothing is counted

	// Resources are offered in addition to the tools.
	Resources []tools.Resource

	// MaxMessageBytes is the maximum size of a message; a longer message is answered with an error.
	// 0: 160 MiB, which is enough for a 100 MiB file in base64.
	MaxMessageBytes int
	// Spool stores the long strings of messages on disk while they are needed. nil: they stay in memory.
	Spool *spool.Folder
	// RequestBytes is the maximum size of all messages of all stdio connections that are in memory at once; a message that
	// would exceed it is answered with an error. 0: 128 MiB, or three times MaxMessageBytes if Spool is nil.
	RequestBytes int64
	// AnswerBytes is the maximum memory for the large answers of all connections. An answer that does not fit waits for a
	// moment; if it still does not fit, an error is sent instead. 0: 512 MiB.
	AnswerBytes int64
	// MaxCalls is the maximum number of tool calls that work at once on one connection. Further calls are queued. Calls
	// that only wait for an execution do not count towards this maximum; there can be four times MaxCalls of them. 0: 64.
	MaxCalls int
	// Grace is how long calls in flight may continue after the client has closed the connection. Executions continue
	// without them. 0: 5 s.
	Grace time.Duration
}

// Server is an MCP server. ServeStdio may be called concurrently, for several connections.
type Server struct {
	mcp    *mcpserver.MCPServer
	log    *slog.Logger
	config Config

	requests *wire.Budget // memory for messages on stdio; [HTTP] has a budget of its own
	answers  *wire.Budget // memory for large answers of all transports
}

// New returns a server that offers the tools.
func New(list []tools.Tool, c Config) *Server {
	if c.MaxMessageBytes == 0 {
		c.MaxMessageBytes = 160 << 20
	}
	if c.MaxCalls == 0 {
		c.MaxCalls = 64
	}
	if c.Grace == 0 {
		c.Grace = 5 * time.Second
	}
	if c.Version == "" {
		c.Version = "dev"
	}
	if c.RequestBytes == 0 {
		c.RequestBytes = defaultRequestBytes(c)
	}
	if c.AnswerBytes == 0 {
		c.AnswerBytes = wire.AnswerBytes
	}
	s := &Server{log: c.Logger, config: c, requests: wire.NewBudget(c.RequestBytes), answers: wire.NewBudget(c.AnswerBytes)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	options := []mcpserver.ServerOption{
		mcpserver.WithTitle("Dormouse"),
		mcpserver.WithDescription("Runs code in sandboxes that stay alive"),
		mcpserver.WithInstructions(tools.Instructions),
		mcpserver.WithToolCapabilities(false), // false: the list of tools never changes
		mcpserver.WithHooks(hooks()),
	}
	if len(c.Resources) > 0 {
		options = append(options, mcpserver.WithResourceCapabilities(false, false))
	}
	s.mcp = mcpserver.NewMCPServer("dormouse", c.Version, options...)
	for _, t := range list {
		s.mcp.AddTool(t.Definition, s.handler(t))
	}
	for _, r := range c.Resources {
		s.mcp.AddResourceTemplate(r.Template, s.reader(r))
	}
	return s
}

// defaultRequestBytes returns the default budget for messages in memory, in bytes. Decoding a message needs several times
// its size.
func defaultRequestBytes(c Config) int64 {
	if c.Spool == nil {
		return 3 * int64(c.MaxMessageBytes)
	}
	return 16 * spool.MaxKept
}

// handler returns the mcp-go handler of a tool. It resolves long arguments, counts the call, enables progress and recovers
// from panics. The handler never returns an error, because mcp-go would turn it into a protocol error, which models do not
// see; a failure is a result with IsError set.
func (s *Server) handler(t tools.Tool) mcpserver.ToolHandlerFunc {
	return func(ctx context.Context, r mcp.CallToolRequest) (result *mcp.CallToolResult, _ error) {
		defer func() {
			if p := recover(); p != nil {
				result = mcp.NewToolResultError(s.panicked(t.Definition.Name, p))
			}
		}()
		begun := time.Now()
		defer func() {
			s.config.Metrics.toolCalled(t.Definition.Name, result == nil || result.IsError, time.Since(begun))
		}()
		ctx, settle := s.withProgress(ctx, r)
		defer settle()
		return t.Call(ctx, resolve(ctx, r.Params.Arguments)), nil
	}
}

// reader returns the mcp-go handler of a resource. It recovers from panics.
func (s *Server) reader(r tools.Resource) mcpserver.ResourceTemplateHandlerFunc {
	return func(ctx context.Context, request mcp.ReadResourceRequest) (contents []mcp.ResourceContents, err error) {
		defer func() {
			if p := recover(); p != nil {
				contents, err = nil, errors.New(s.panicked(r.Template.Name, p))
			}
		}()
		one, err := r.Read(ctx, request.Params.URI)
		if err != nil {
			return nil, err
		}
		return []mcp.ResourceContents{one}, nil
	}
}

// panicked logs a panic with a random error id, and returns a message for the model that contains only that id.
func (s *Server) panicked(what string, p any) string {
	number := rand.Text()[:8]
	s.log.Error("a tool panicked", "error_id", number, "tool", what, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	return fmt.Sprintf("Dormouse had an internal error (number %s in its log). Call again; if the error persists, tell the user.", number)
}
