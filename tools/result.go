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

// Limits of a management tool's answer, which repeats its value as structured content.
const (
	maxListBytes = 10_000 // of a list as JSON
	maxReason    = 300    // of a sentence in it
)

// fitting returns how many values at the beginning of a list fit an answer: at least one, if there is one.
func fitting[T any](list []T) int {
	size := 0
	for i, v := range list {
		b, _ := json.Marshal(v) // it is marshalled again for the answer, where an error shows
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
