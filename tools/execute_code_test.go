package tools_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools"
	"github.com/dormouse-sandbox/dormouse/tools/toolstest"
)

// TestNewSandboxIsNamedFirst checks that the first line of the answer names a new sandbox, because models use the id
// from there.
func TestNewSandboxIsNamedFirst(t *testing.T) {
	d := newDouble()
	list := tools.New(d, tools.Config{})
	first, _, _ := strings.Cut(toolstest.Text(t, call(t, list, "execute_code", args{"code": "1"})), "\n")
	if id := string(d.sandboxes[0].ID); !strings.Contains(first, "new sandbox "+id) {
		t.Errorf("the first line does not name %s: %s", id, first)
	}
	again := toolstest.Text(t, call(t, list, "execute_code", args{"code": "1", "sandbox_id": d.sandboxes[0].ID}))
	if strings.Contains(again, "new") || len(d.sandboxes) != 1 {
		t.Errorf("the second call made a sandbox, or says so: %s", again)
	}
}

// TestDefaults checks the default timeout, wait and window in the request that starts an execution. This request waits for
// only one second. TestRunningThenDone checks that the whole call waits for 45 seconds.
func TestDefaults(t *testing.T) {
	d := newDouble()
	call(t, tools.New(d, tools.Config{}), "execute_code", args{"code": "1"})
	r := d.ran[0]
	if *r.TimeoutSeconds != 600 || r.WaitSeconds != 1 || r.Head != 3000 || r.Tail != 7000 {
		t.Errorf("timeout %d, wait %v, window %+v; want 600, 1, 3000 and 7000", *r.TimeoutSeconds, r.WaitSeconds, r.Window)
	}
}

// TestRequestID checks that a retry with the same request id does not run the code again and does not create a second
// sandbox.
func TestRequestID(t *testing.T) {
	for _, id := range []string{"load-1", strings.Repeat("x", sandbox.MaxRequestID)} {
		d := newDouble()
		list := tools.New(d, tools.Config{})
		call(t, list, "execute_code", args{"code": "1", "request_id": id})
		toolstest.WantText(t, call(t, list, "execute_code", args{"code": "1", "request_id": id}), false, "The code was not run again", "exec_")
		if len(d.ran) != 1 || len(d.sandboxes) != 1 {
			t.Errorf("%d executions in %d sandboxes, want one in one", len(d.ran), len(d.sandboxes))
		}
	}
}

// TestRequestIDAfterFailure checks that a retry runs the code in the sandbox that the failed first call created.
func TestRequestIDAfterFailure(t *testing.T) {
	d := newDouble()
	list := tools.New(d, tools.Config{})
	d.fail["Execute"] = sandbox.Errorf(sandbox.Unavailable, "the guest does not answer")
	toolstest.WantText(t, call(t, list, "execute_code", args{"code": "1", "request_id": "r"}), true, "the guest does not answer", "still exists: pass it as sandbox_id")
	delete(d.fail, "Execute")
	toolstest.WantText(t, call(t, list, "execute_code", args{"code": "1", "request_id": "r"}), false, "succeeded")
	if len(d.sandboxes) != 1 {
		t.Errorf("%d sandboxes, want one", len(d.sandboxes))
	}
}

// TestFilesFailInNewSandbox checks that a call deletes the sandbox that it created if it cannot write the files.
func TestFilesFailInNewSandbox(t *testing.T) {
	d := newDouble()
	d.fail["WriteFile b"] = sandbox.Errorf(sandbox.Limit, "the workspace is full")
	r := call(t, tools.New(d, tools.Config{}), "execute_code", args{"code": "1", "files": []args{{"path": "a", "text": "1"}, {"path": "b", "text": "2"}, {"path": "c", "text": "3"}}})
	toolstest.WantText(t, r, true, `"b" was not written`, `Written before it: "a"`, `Not written either: "c"`, "the workspace is full", "The code was not run", "created for this call was deleted")
	if len(d.ran) != 0 || d.sandboxes[0].State != sandbox.Terminated {
		t.Errorf("ran %d, the sandbox is %s", len(d.ran), d.sandboxes[0].State)
	}
}

// TestFilesFailInOldSandbox checks that a failed call does not delete a sandbox that existed before it.
func TestFilesFailInOldSandbox(t *testing.T) {
	d := newDouble()
	list := tools.New(d, tools.Config{})
	call(t, list, "create_sandbox", args{"display_name": "mine"})
	r := call(t, list, "execute_code", args{"code": "1", "sandbox_id": "mine", "files": []args{{"path": "a", "base64": "!"}}})
	toolstest.WantText(t, r, true, `"a" was not written`, `the character '!' at position 0`)
	if d.sandboxes[0].State != sandbox.Running {
		t.Error("the caller's sandbox was deleted")
	}
}

// TestCancelledCall checks that a call whose context ends returns immediately and that its execution continues.
func TestCancelledCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDouble()
		d.scripts["slow"] = sandbox.Execution{}
		d.after["slow"] = time.Hour
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		begun := time.Now()
		r := callContext(ctx, t, tools.New(d, tools.Config{}), "execute_code", args{"code": "slow"})
		toolstest.WantText(t, r, true, "cancelled", "continues")
		if waited := time.Since(begun); waited != 2*time.Second {
			t.Errorf("answered after %v, want 2s", waited)
		}
		if s := d.sandboxes[0].State; s != sandbox.Running {
			t.Errorf("the sandbox is %s, want running", s)
		}
	})
}

// TestErrorsSuggestTheNextCall checks that errors of each kind suggest what to call next.
func TestErrorsSuggestTheNextCall(t *testing.T) {
	d := newDouble()
	list := tools.New(d, tools.Config{})
	toolstest.WantText(t, call(t, list, "execute_code", args{"code": "1", "sandbox_id": "gone"}), true, `there is no sandbox "gone".`, "list_sandboxes", "without sandbox_id")
	toolstest.WantText(t, call(t, list, "get_execution", args{"execution_id": "exec_x"}), true, `there is no execution "exec_x".`, "get_sandbox")
	toolstest.WantText(t, call(t, list, "interrupt_execution", args{"execution_id": "exec_x"}), true, "there is no execution")
	d.fail["Create"] = sandbox.Errorf(sandbox.Limit, "there are 20 sandboxes, the limit")
	toolstest.WantText(t, call(t, list, "execute_code", args{"code": "1"}), true, "the limit.", "delete_sandbox")
	d.fail["Create"] = sandbox.Errorf(sandbox.Unavailable, "the engine does not answer")
	toolstest.WantText(t, call(t, list, "create_sandbox", args{}), true, "dormouse doctor")
	delete(d.fail, "Create")
	call(t, list, "create_sandbox", args{"display_name": "old"})
	call(t, list, "delete_sandbox", args{"sandbox_id": "old"})
	toolstest.WantText(t, call(t, list, "get_sandbox", args{"sandbox_id": "old"}), true, "has ended: it was deleted.", "create_sandbox creates a new one")
}

// TestInternalErrorsAreOnlyLogged checks that the text of an internal error is logged and not shown. The answer and the log
// have the same number.
func TestInternalErrorsAreOnlyLogged(t *testing.T) {
	var log bytes.Buffer
	d := newDouble()
	d.fail["Create"] = errors.New("open /var/lib/secret/path: boom")
	list := tools.New(d, tools.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	s := toolstest.Text(t, call(t, list, "execute_code", args{"code": "1"}))
	_, rest, ok := strings.Cut(s, "(number ")
	number, _, _ := strings.Cut(rest, " ")
	if !ok || strings.Contains(s, "secret") || !strings.Contains(log.String(), "secret") || !strings.Contains(log.String(), number) {
		t.Errorf("answer: %s\nlog: %s", s, log.String())
	}
}

func TestInterrupt(t *testing.T) {
	d := newDouble()
	d.scripts["loop"] = sandbox.Execution{State: sandbox.ExecRunning, Events: []sandbox.Event{out("x\n")}}
	list := tools.New(d, tools.Config{})
	call(t, list, "execute_code", args{"code": "loop", "wait_seconds": 0})
	toolstest.WantText(t, call(t, list, "interrupt_execution", args{"execution_id": letterID("exec_", 0)}), false, "was interrupted", "Variables are kept.", "get_execution(")
}

func TestLists(t *testing.T) {
	list := tools.New(newDouble(), tools.Config{})
	toolstest.WantText(t, call(t, list, "list_sandboxes", nil), false, "There are no sandboxes")
	for range 3 {
		call(t, list, "create_sandbox", nil)
	}
	toolstest.WantText(t, call(t, list, "list_sandboxes", args{"page_size": 2}), false, "2 sandboxes. There are more", "page_token: token-2", letterID("sbx_", 2))
}
