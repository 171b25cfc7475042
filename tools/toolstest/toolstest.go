// Package toolstest has the checks of answers that the tests of packages tools and render share: [Text] and [WantText] for
// what a model reads, and [Golden] for files in testdata.
package toolstest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mark3labs/mcp-go/mcp"
)

// Text returns the text of an answer, which must be its first content.
func Text(t testing.TB, r *mcp.CallToolResult) string {
	t.Helper()
	if len(r.Content) == 0 {
		t.Fatal("the answer has no content, want a text")
	}
	text, ok := r.Content[0].(mcp.TextContent)
	if !ok {
		t.Fatalf("the first content is %T, want a text", r.Content[0])
	}
	return text.Text
}

// WantText fails the test unless the answer's IsError is isError and its text contains all parts.
func WantText(t testing.TB, r *mcp.CallToolResult, isError bool, parts ...string) {
	t.Helper()
	s := Text(t, r)
	if r.IsError != isError {
		t.Errorf("IsError = %v, want %v; the answer is: %s", r.IsError, isError, s)
	}
	for _, part := range parts {
		if !strings.Contains(s, part) {
			t.Errorf("the answer does not contain %q:\n%s", part, s)
		}
	}
}

// Golden fails the test unless got equals the content of a file in the folder testdata of the package under test. If
// DORMOUSE_UPDATE_GOLDEN is 1, Golden writes got to the file instead.
func Golden(t testing.TB, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("DORMOUSE_UPDATE_GOLDEN") == "1" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (DORMOUSE_UPDATE_GOLDEN=1 writes it)", err)
	}
	if string(want) != got {
		t.Errorf("%s differs (DORMOUSE_UPDATE_GOLDEN=1 updates it).\n--- got\n%s\n--- want\n%s", path, got, want)
	}
}
