// Package mcpclient is a small MCP client for Dormouse, based on mcp-go's client. [Start] runs `dormouse mcp` and returns a
// [Session], whose methods call tools and return their results as an [Answer]. The demo, the benchmarks and the end-to-end
// tests use it. You can copy it into your own agent.
package mcpclient

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"

	"github.com/mark3labs/mcp-go/client"
	"github.com/mark3labs/mcp-go/client/transport"
	"github.com/mark3labs/mcp-go/mcp"
)

// Args are the arguments of a tool call.
type Args = map[string]any

// Session is an MCP client connected to `dormouse mcp`. Its methods are safe for concurrent use.
type Session struct {
	Server       string // the server's name and version
	Instructions string
	Tools        []mcp.Tool

	client *client.Client
}

// Answer is the result of a tool call, with its parts decoded.
type Answer struct {
	IsError    bool
	Text       string
	Images     [][]byte
	Blob       []byte         // content of a file that is neither text nor a picture
	Structured map[string]any // structured content; nil for read_file and for the tools about executions
}

// Start runs `dormouse mcp` with env added to this process's environment, and initializes the session. The caller must
// close the session. The daemon keeps running after the session is closed.
func Start(ctx context.Context, binary string, env []string, args ...string) (*Session, error) {
	stdio := transport.NewStdioWithOptions(binary, append(os.Environ(), env...), append([]string{"mcp"}, args...))
	c := client.NewClient(stdio)
	if err := c.Start(ctx); err != nil {
		return nil, fmt.Errorf("start %s mcp: %w", binary, err)
	}
	s := &Session{client: c}
	if err := s.initialize(ctx); err != nil {
		_ = c.Close()
		return nil, err
	}
	return s, nil
}

func (s *Session) initialize(ctx context.Context) error {
	var hello mcp.InitializeRequest
	hello.Params.ProtocolVersion = mcp.LATEST_PROTOCOL_VERSION
	hello.Params.ClientInfo = mcp.Implementation{Name: "dormouse-mcpclient", Version: "1"}
	info, err := s.client.Initialize(ctx, hello)
	if err != nil {
		return fmt.Errorf("initialize: %w", err)
	}
	list, err := s.client.ListTools(ctx, mcp.ListToolsRequest{})
	if err != nil {
		return fmt.Errorf("list tools: %w", err)
	}
	s.Server = info.ServerInfo.Name + " " + info.ServerInfo.Version
	s.Instructions, s.Tools = info.Instructions, list.Tools
	return nil
}

// Close stops `dormouse mcp`. The daemon and the sandboxes keep running.
func (s *Session) Close() { _ = s.client.Close() }

// Call calls a tool. If the tool returns an error, Call returns an Answer with IsError set and a nil error. The error is
// not nil if the protocol or the connection fails, or if the answer can't be decoded.
func (s *Session) Call(ctx context.Context, tool string, args Args) (Answer, error) {
	var req mcp.CallToolRequest
	req.Params.Name, req.Params.Arguments = tool, args
	res, err := s.client.CallTool(ctx, req)
	if err != nil {
		return Answer{}, fmt.Errorf("%s: %w", tool, err)
	}
	out := Answer{IsError: res.IsError}
	for _, c := range res.Content {
		switch c := c.(type) {
		case mcp.TextContent:
			out.Text += c.Text
		case mcp.ImageContent:
			data, err := base64.StdEncoding.DecodeString(c.Data)
			if err != nil {
				return out, fmt.Errorf("%s: decode an image of the answer: %w", tool, err)
			}
			out.Images = append(out.Images, data)
		case mcp.EmbeddedResource:
			if blob, ok := c.Resource.(mcp.BlobResourceContents); ok {
				if out.Blob, err = base64.StdEncoding.DecodeString(blob.Blob); err != nil {
					return out, fmt.Errorf("%s: decode a file of the answer: %w", tool, err)
				}
			}
		}
	}
	out.Structured, _ = res.StructuredContent.(map[string]any)
	return out, nil
}

// Must is like Call, but returns a non-nil error also if the tool returns an error.
func (s *Session) Must(ctx context.Context, tool string, args Args) (Answer, error) {
	a, err := s.Call(ctx, tool, args)
	if err == nil && a.IsError {
		err = fmt.Errorf("%s: %s", tool, a.Text)
	}
	return a, err
}
