package tools_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools"
	"github.com/dormouse-sandbox/dormouse/tools/toolstest"
)

// TestPages checks that a client that follows the offsets in the answers gets each byte of a long output exactly once.
func TestPages(t *testing.T) {
	d := newDouble()
	want := numbered(3000)
	d.scripts["code"] = sandbox.Execution{Events: []sandbox.Event{out(want), result(plain("'the end'"))}}
	list := tools.New(d, tools.Config{})
	first := toolstest.Text(t, call(t, list, "execute_code", args{"code": "code"}))
	id := letterID("exec_", 0)
	if !strings.Contains(first, fmt.Sprintf("bytes not shown: get_execution(execution_id=%q, offset=", id)) {
		t.Fatalf("the answer does not say how to read the rest:\n%s", first)
	}
	var got strings.Builder
	offset, pages := 0, 0
	for {
		s := toolstest.Text(t, call(t, list, "get_execution", args{"execution_id": id, "offset": offset}))
		if _, rest, ok := strings.Cut(s, "stdout:\n```\n"); ok {
			page, _, _ := strings.Cut(rest, "\n```\n")
			got.WriteString(page)
			got.WriteString("\n") // each page ends with a newline
		}
		pages++
		_, call, ok := strings.Cut(s, "bytes more: get_execution(execution_id=\""+id+"\", offset=")
		hasResult := strings.Contains(s, "the end")
		if hasResult == ok {
			t.Fatalf("page %d: result shown = %v, more follows = %v", pages, hasResult, ok)
		}
		if !ok {
			break
		}
		if _, err := fmt.Sscanf(call, "%d", &offset); err != nil {
			t.Fatal(err)
		}
	}
	if got.String() != want {
		t.Errorf("the pages have %d bytes, want %d", got.Len(), len(want))
	}
	if pages < 4 {
		t.Errorf("%d pages, want at least 4", pages)
	}
}

// TestRunningThenDone checks that get_execution continues to wait for an execution that execute_code left running.
func TestRunningThenDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDouble()
		d.scripts["slow"] = sandbox.Execution{Events: []sandbox.Event{out("tick\n"), result(plain("'done'"))}}
		d.after["slow"] = 75 * time.Second
		list := tools.New(d, tools.Config{})
		toolstest.WantText(t, call(t, list, "execute_code", args{"code": "slow"}), false, "is still running after 45 s", "get_execution(execution_id=\"exec_")
		toolstest.WantText(t, call(t, list, "get_execution", args{"execution_id": letterID("exec_", 0), "wait_seconds": "40", "offset": 5}), false, "succeeded in 75 s", "'done'")
	})
}
