// Package render turns results into text and images for a model. The MCP tools of package tools call it; it calls no
// tool and no daemon.
//
//   - [Execution]: the answer about an execution, or about one page of its output (execution.go, page.go). Its parts are
//     the status line (status.go), printed text (stream.go), and displays, results and errors (selection.go, rich.go)
//   - [File]: the answers of read_file about a part of a file (file.go)
//   - [Sandbox], [DescribeSandbox]: answers about a sandbox (sandbox.go)
//   - [Text], [Error], [Structured]: all other answers (render.go)
//   - [Pictures]: shrinking pictures so that they fit into an answer (pictures.go, pictureheader.go). A separate process
//     with limited resources decodes them (pictureworker.go, confine_*.go): see [RunPictureWorker]
//   - [CleanTerminal] and the escaping of text from programs, so that it cannot imitate Dormouse's own text (sanitize.go)
//   - fences, numbers and sentences (text.go)
//
// All text from a sandbox is untrusted. An answer shows it only between fences that it cannot close, or cleaned in a
// sentence. The sizes of all answers are limited, because agents truncate long answers.
package render

import (
	"encoding/json"

	"github.com/mark3labs/mcp-go/mcp"
)

// maxErrorAnswer is the maximum size in bytes of the text of an answer that is an error.
const maxErrorAnswer = 4_000

// Error returns an answer that reports an error. s says what happened, why, and what the model can call next.
func Error(s string) *mcp.CallToolResult {
	return &mcp.CallToolResult{IsError: true, Content: []mcp.Content{textContent(Truncate(Sentence(s, ""), maxErrorAnswer))}}
}

// Text returns an answer with a text.
func Text(s string) *mcp.CallToolResult {
	return &mcp.CallToolResult{Content: []mcp.Content{textContent(s)}}
}

func textContent(s string) mcp.TextContent {
	return mcp.TextContent{Type: mcp.ContentTypeText, Text: s}
}

// Limits of a management tool's answer, in bytes. The answer contains its value twice: as text and as structured
// content.
const (
	maxListBytes = 10_000 // the JSON of a list
	// MaxReason is the maximum size of the text of one reason or detail.
	MaxReason = 300
)

// Fitting returns how many values from the beginning of a list fit into an answer: at least one, unless the list is
// empty.
func Fitting[T any](list []T) int {
	size := 0
	for i, v := range list {
		b, _ := json.Marshal(v) // an error is ignored here, because Structured encodes the same values and reports it
		if size += len(cleanText(string(b))) + 1; size > maxListBytes && i > 0 {
			return i
		}
	}
	return len(list)
}

// Structured returns the answer of a management tool. The text consists of words and the value as JSON; the structured
// content is the value again, because clients show the model either the text or the structured content.
func Structured(words string, v any) *mcp.CallToolResult {
	b, err := json.Marshal(v)
	if err != nil {
		return Error("Dormouse could not write its answer")
	}
	// The value may contain hostile names. JSON escapes control characters, but not the characters that reorder text,
	// so cleanText escapes these.
	return &mcp.CallToolResult{
		Content:           []mcp.Content{textContent(words + "\n" + cleanText(string(b)))},
		StructuredContent: v,
	}
}
