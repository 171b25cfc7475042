package server

import mcpserver "github.com/mark3labs/mcp-go/server"

// MCP returns the mcp-go server, to which tests add fixtures that are not tools.
func (s *Server) MCP() *mcpserver.MCPServer { return s.mcp }
