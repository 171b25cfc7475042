package tools_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools"
	"github.com/dormouse-sandbox/dormouse/tools/toolstest"
)

// call runs a tool like a client: it encodes the arguments as JSON and passes the decoded JSON to the tool.
func call(t testing.TB, list []tools.Tool, name string, arguments any) *mcp.CallToolResult {
	t.Helper()
	return callContext(t.Context(), t, list, name, arguments)
}

func callContext(ctx context.Context, t testing.TB, list []tools.Tool, name string, arguments any) *mcp.CallToolResult {
	t.Helper()
	b, err := json.Marshal(arguments)
	if err != nil {
		t.Fatal(err)
	}
	var decoded any
	if err := json.Unmarshal(b, &decoded); err != nil {
		t.Fatal(err)
	}
	for _, tool := range list {
		if tool.Definition.Name == name {
			return tool.Call(ctx, decoded)
		}
	}
	t.Fatalf("there is no tool %q", name)
	return nil
}

type args = map[string]any

// TestDefinitions compares the tool definitions that clients see with a golden file, so that changes to them are
// reviewed. It also limits their size.
func TestDefinitions(t *testing.T) {
	var definitions []mcp.Tool
	for _, tool := range tools.New(newDouble(), tools.Config{}) {
		definitions = append(definitions, tool.Definition)
	}
	compact, err := json.Marshal(definitions)
	if err != nil {
		t.Fatal(err)
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, compact, "", "  "); err != nil {
		t.Fatal(err)
	}
	toolstest.Golden(t, "tools.golden.json", pretty.String()+"\n")

	// The definitions must need less than 2,500 tokens of a model's context. A token has about four bytes.
	if budget := 9500; len(compact) > budget {
		t.Errorf("tools/list has %d bytes, the budget is %d", len(compact), budget)
	}
	t.Logf("tools/list: %d bytes, about %d tokens; instructions: %d bytes", len(compact), len(compact)/4, len(tools.Instructions))
	for _, word := range []string{`"$ref"`, `"oneOf"`, `"anyOf"`, `"allOf"`} {
		if bytes.Contains(compact, []byte(word)) {
			t.Errorf("a schema has %s, which clients refuse", word)
		}
	}
}

func TestEveryToolHasTitleAndHints(t *testing.T) {
	for _, tool := range tools.New(newDouble(), tools.Config{}) {
		a := tool.Definition.Annotations
		if a.Title == "" || a.ReadOnlyHint == nil || a.DestructiveHint == nil || a.IdempotentHint == nil || a.OpenWorldHint == nil {
			t.Errorf("%s lacks a title or a hint", tool.Definition.Name)
		}
		if *a.ReadOnlyHint && *a.DestructiveHint {
			t.Errorf("%s is both read-only and destructive", tool.Definition.Name)
		}
		// Codex asks the user before it runs a tool that is destructive or open-world. The command codex exec can't
		// ask, so it rejects such tools.
		if want := tool.Definition.Name == "delete_sandbox"; *a.DestructiveHint != want || *a.OpenWorldHint {
			t.Errorf("%s: destructive = %v, open world = %v; want %v and false", tool.Definition.Name, *a.DestructiveHint, *a.OpenWorldHint, want)
		}
	}
}

func TestInstructionsAreShort(t *testing.T) {
	if n := len(tools.Instructions); n > 1500 {
		t.Errorf("the instructions have %d bytes, the limit is 1500", n)
	}
}

// TestExecutionToolsHaveNoStructuredContent checks that answers about executions and files have no structured content,
// because some clients hide the text and images of answers that have it.
func TestExecutionToolsHaveNoStructuredContent(t *testing.T) {
	list := tools.New(newDouble(), tools.Config{})
	for _, tool := range list {
		switch name := tool.Definition.Name; name {
		case "execute_code", "get_execution", "interrupt_execution", "read_file":
			if tool.Definition.RawOutputSchema != nil {
				t.Errorf("%s has an output schema", name)
			}
		default:
			if tool.Definition.RawOutputSchema == nil {
				t.Errorf("%s has no output schema", name)
			}
		}
	}
	if r := call(t, list, "execute_code", args{"code": "1"}); r.StructuredContent != nil {
		t.Error("execute_code answers with structured content")
	}
}

// TestManagementToolsAnswerWithTextAndStructuredContent checks that answers of management tools contain their value as text
// and as structured content.
func TestManagementToolsAnswerWithTextAndStructuredContent(t *testing.T) {
	list := tools.New(newDouble(), tools.Config{})
	made := call(t, list, "create_sandbox", args{"display_name": "work", "ttl": "2h"})
	toolstest.WantText(t, made, false, "Sandbox sbx_", "sandbox_id=", `"display_name":"work"`)
	for _, tool := range []struct {
		name string
		args args
	}{
		{"create_sandbox", args{}},
		{"get_sandbox", args{"sandbox_id": "work"}},
		{"list_sandboxes", args{}},
		{"update_sandbox", args{"sandbox_id": "work", "ttl": 3600}},
		{"write_files", args{"sandbox_id": "work", "files": []args{{"path": "a", "text": "b"}}}},
		{"delete_sandbox", args{"sandbox_id": "work"}},
	} {
		r := call(t, list, tool.name, tool.args)
		want, err := json.Marshal(r.StructuredContent)
		if err != nil || r.StructuredContent == nil {
			t.Fatalf("%s: structured content %v, %v", tool.name, r.StructuredContent, err)
		}
		toolstest.WantText(t, r, false, string(want))
	}
}

func out(s string) sandbox.Event    { return sandbox.Event{Type: sandbox.EventStdout, Text: s} }
func errOut(s string) sandbox.Event { return sandbox.Event{Type: sandbox.EventStderr, Text: s} }

func display(data map[string]string) sandbox.Event {
	return sandbox.Event{Type: sandbox.EventDisplay, Data: data}
}

func result(data map[string]string) sandbox.Event {
	return sandbox.Event{Type: sandbox.EventResult, Data: data}
}

func plain(s string) map[string]string { return map[string]string{"text/plain": s} }

func numbered(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "line %d é\n", i)
	}
	return b.String()
}
