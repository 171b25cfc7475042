package tools

import (
	"encoding/json"

	"github.com/mark3labs/mcp-go/mcp"
)

func errorText(s string) *mcp.CallToolResult {
	return &mcp.CallToolResult{IsError: true, Content: []mcp.Content{textContent(sentence(s))}}
}

func textContent(s string) mcp.TextContent {
	return mcp.TextContent{Type: mcp.ContentTypeText, Text: s}
}

// structured is the answer of a management tool: a sentence and the value, as text
// and as structured content, because clients show the model either one or the other.
func structured(words string, v any) *mcp.CallToolResult {
	b, err := json.Marshal(v)
	if err != nil {
		return errorText("Dormouse could not write its answer")
	}
	// Names in it may be hostile; JSON keeps control characters escaped but not
	// the ones that reorder text.
	return &mcp.CallToolResult{
		Content:           []mcp.Content{textContent(words + "\n" + cleanText(string(b)))},
		StructuredContent: v,
	}
}
