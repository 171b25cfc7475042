// Package server is the MCP server: it carries messages between clients and package
// tools, over mcp-go, and knows no Docker, engine or kernel. What mcp-go leaves
// open is closed here, once.
//
//   - server.go: the server, and what stands around every tool call (panics, progress)
//   - message.go: what must be known of a message before mcp-go sees it
//   - long.go: strings that are on disk (package spool) and not in a message, in and out
//   - progress.go: progress notifications that never come after the result
//   - stdio.go: MCP on stdin and stdout, in lines.go's lines
//   - sse.go: MCP over server-sent events, as 2024-11-05 has it
//   - connection.go: what these two share: one client's messages, in flight and out; session.go is
//     what mcp-go knows of it
//   - streamable.go: MCP over streamable HTTP, in every era of the protocol
//   - http.go: all that is served over HTTP; guard.go stands in front of it: who may talk (address.go,
//     token.go, tokenfile.go), and how much (conns.go, slots.go, body.go, response.go)
//   - health.go, metrics.go: what monitoring asks for; waits.go: waits that a stop ends
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

// Config is what is not a tool. Zero values are useful.
type Config struct {
	Version string
	Logger  *slog.Logger // nil: nothing is logged
	Metrics *Metrics     // nil: nothing is counted

	// Resources are offered besides the tools.
	Resources []tools.Resource

	// MaxMessageBytes bounds one message; what is longer is answered with an error.
	// 0: 160 MiB, which has room for a 100 MiB file in base64.
	MaxMessageBytes int
	// Spool is where long strings of messages are while they are needed. nil: they are in memory.
	Spool *spool.Folder
	// RequestBytes bounds the bytes of all stdio connections' messages that are in memory at once; a message beyond that is answered
	// with an error. 0: 128 MiB, or three times MaxMessageBytes if there is no spool.
	RequestBytes int64
	// AnswerBytes bounds the memory for the large answers of all connections; an answer beyond that waits for a moment, and then an
	// error is sent instead. 0: 512 MiB.
	AnswerBytes int64
	// MaxCalls bounds the tool calls that work at once on one connection; the next ones
	// wait. In addition, four times as many calls may wait for an execution. 0: 64.
	MaxCalls int
	// Grace is how long calls in flight may go on when the client has closed its end.
	// Executions go on without them in any case. 0: 5 s.
	Grace time.Duration
}

// Server is an MCP server. Its Serve methods may be called concurrently.
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
		mcpserver.WithToolCapabilities(false), // the list never changes
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

// defaultRequestBytes returns the default budget for messages in memory. Decoding a message needs several times its size.
func defaultRequestBytes(c Config) int64 {
	if c.Spool == nil {
		return 3 * int64(c.MaxMessageBytes)
	}
	return 16 * spool.MaxKept
}

// handler is what stands around every tool call. It never returns an error:
// mcp-go would make it a protocol error, which models do not see.
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

// reader is what stands around every read of a resource.
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

// panicked logs a panic under a number, and says no more than the number.
func (s *Server) panicked(what string, p any) string {
	number := rand.Text()[:8]
	s.log.Error("a tool panicked", "error_id", number, "tool", what, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	return fmt.Sprintf("Dormouse had an internal error (number %s in its log). Call again; if it stays so, tell the user.", number)
}
