package tools

import (
	"encoding/json"

	"github.com/mark3labs/mcp-go/mcp"
)

func errorText(s string) *mcp.CallToolResult {
	return &mcp.CallToolResult{IsError: true, Content: []mcp.Content{textContent(short(sentence(s), maxErrorAnswer))}}
}

func textContent(s string) mcp.TextContent {
	return mcp.TextContent{Type: mcp.ContentTypeText, Text: s}
}

// Limits of a management tool's answer, in bytes. The answer contains its value twice: as text and as structured content.
const (
	maxListBytes = 10_000 // a list as JSON
	maxReason    = 300    // a sentence in a list
)

// fitting returns how many values at the beginning of a list fit into an answer: at least one, unless the list is empty.
func fitting[T any](list []T) int {
	size := 0
	for i, v := range list {
		b, _ := json.Marshal(v) // an error is handled when the answer is marshalled
		if size += len(cleanText(string(b))) + 1; size > maxListBytes && i > 0 {
			return i
		}
	}
	return len(list)
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
