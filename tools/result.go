package tools

import (
	"encoding/json"

	"github.com/mark3labs/mcp-go/mcp"
)

func errorText(s string) *mcp.CallToolResult {
	return &mcp.CallToolResult{IsError: true, Content: []mcp.Content{textContent(truncate(toSentence(s), maxErrorAnswer))}}
}

func textContent(s string) mcp.TextContent {
	return mcp.TextContent{Type: mcp.ContentTypeText, Text: s}
}

// Limits of a management tool's answer, in bytes. The answer contains its value twice: as text and as structured
// content.
const (
	maxListBytes = 10_000 // the JSON of a list
	maxReason    = 300    // the text of one reason or detail
)

// fitting returns how many values from the beginning of a list fit into an answer: at least one, unless the list is
// empty.
func fitting[T any](list []T) int {
	size := 0
	for i, v := range list {
		b, _ := json.Marshal(v) // an error is ignored here, because structured encodes the same values and reports it
		if size += len(cleanText(string(b))) + 1; size > maxListBytes && i > 0 {
			return i
		}
	}
	return len(list)
}

// structured returns the answer of a management tool. The text consists of words and the value as JSON; the structured
// content is the value again, because clients show the model either the text or the structured content.
func structured(words string, v any) *mcp.CallToolResult {
	b, err := json.Marshal(v)
	if err != nil {
		return errorText("Dormouse could not write its answer")
	}
	// The value may contain hostile names. JSON escapes control characters, but not the characters that reorder text,
	// so cleanText escapes these.
	return &mcp.CallToolResult{
		Content:           []mcp.Content{textContent(words + "\n" + cleanText(string(b)))},
		StructuredContent: v,
	}
}
