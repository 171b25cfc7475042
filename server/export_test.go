package server

import mcpserver "github.com/mark3labs/mcp-go/server"

// MCP is for fixtures of tests that are no tools.
func (s *Server) MCP() *mcpserver.MCPServer { return s.mcp }
