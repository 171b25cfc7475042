package tools_test

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools"
	"github.com/dormouse-sandbox/dormouse/tools/toolstest"
)

// answerBudget is the maximum size in bytes of the text of an answer about an execution.
const answerBudget = 10_000

// hostileTexts are texts for tests of the size limits. Most of them become longer in an answer, for example because they are
// escaped.
var hostileTexts = []string{"x", "\x00", "\xff", "`", "``````````````", "\u202e", "\U000e0041", "\n", "\r", "é", "\x1b[31m", "<Figure>", "line of text\n", "```\n"}

// executionFromBytes returns an execution that is built from bytes. Each group of three bytes adds one thing: the bytes
// choose its kind, size and text.
func executionFromBytes(b []byte) sandbox.Execution {
	ex := sandbox.Execution{State: sandbox.ExecFailed}
	for i := 0; i+2 < len(b); i += 3 {
		kind, size, text := b[i], 48*int(b[i+1]), hostileTexts[int(b[i+2])%len(hostileTexts)]
		s := strings.Repeat(text, 1+size/len(text))
		switch kind % 12 {
		case 0, 1:
			ex.Events = append(ex.Events, out(s))
		case 2:
			ex.Events = append(ex.Events, errOut(s))
		case 3:
			ex.Events = append(ex.Events, result(plain(s)))
		case 4:
			ex.Events = append(ex.Events, display(map[string]string{"text/markdown": s}))
		case 5:
			ex.Error = &sandbox.CodeError{Name: "E", Message: s, Traceback: s}
			ex.Events = append(ex.Events, sandbox.Event{Type: sandbox.EventError})
		case 6:
			ex.Events = append(ex.Events, sandbox.Event{Type: sandbox.EventOmitted, Bytes: int64(size), Reason: sandbox.OmittedByLimit})
		case 7:
			ex.Files = append(ex.Files, sandbox.File{Path: "f" + s[:min(len(s), 900)], Size: int64(size)})
		case 8:
			ex.FilesOmitted = append(ex.FilesOmitted, sandbox.OmittedFile{Path: s[:min(len(s), 900)], Reason: s})
		case 9:
			ex.Interlude = &sandbox.Interlude{LateBytes: int64(len(s)), LateText: s[:min(len(s), sandbox.MaxLateText)], AsOf: time.Unix(1e9, 0),
				Death: &sandbox.KernelDeath{Cause: sandbox.DiedExit, Detail: s}}
		case 10:
			ex.State, ex.Death, ex.Reason = sandbox.ExecKernelDied, &sandbox.KernelDeath{Cause: sandbox.DiedSignal, Signal: "SIGSEGV", Detail: s}, s
		case 11: // many small events
			for range int(b[i+1]) {
				ex.Events = append(ex.Events, out(text), errOut(text), display(plain(text)))
			}
		}
	}
	return ex
}

var nextPage = regexp.MustCompile(`more: get_execution\(execution_id="[a-z_]+", offset=(\d+)\)`)

// checkAnswers requests the answer about the execution that executionFromBytes builds from b, and then its pages. It fails the
// test if an answer is too long.
func checkAnswers(t *testing.T, b []byte) {
	t.Helper()
	d := newDouble()
	d.scripts["code"] = executionFromBytes(b)
	list := tools.New(d, tools.Config{})
	if s := toolstest.Text(t, call(t, list, "execute_code", args{"code": "code"})); len(s) > answerBudget {
		t.Errorf("the answer to %v has %d bytes, want at most %d; it begins with:\n%.500s", b, len(s), answerBudget, s)
	}
	id := letterID("exec_", 0)
	for offset, pages := 0, 0; pages < 20; pages++ {
		s := toolstest.Text(t, call(t, list, "get_execution", args{"execution_id": id, "offset": offset}))
		if len(s) > answerBudget {
			t.Errorf("the page of %v at %d has %d bytes, want at most %d; it begins with:\n%.500s", b, offset, len(s), answerBudget, s)
		}
		m := nextPage.FindAllStringSubmatch(s, -1)
		if m == nil {
			return
		}
		next, err := strconv.Atoi(m[len(m)-1][1])
		if err != nil || next <= offset {
			t.Fatalf("the page of %v at %d names %d as the next, want a larger offset", b, offset, next)
		}
		offset = next
	}
}

func FuzzAnswersFitTheirBudget(f *testing.F) {
	f.Add([]byte("\x00\xff\x01\x03\xff\x00\x05\xff\x04\x09\xff\x01"))
	f.Add([]byte("\x0b\xff\x03\x0b\xff\x04\x05\xff\x03\x0a\xff\x01\x09\xff\x06\x07\xff\x06\x08\xff\x06"))
	f.Add([]byte("\x00\xff\x01\x0b\xff\x08\x0b\xff\x01\x03\xff\x04\x00\xff\x08\x0b\xff\x08")) // carriage returns between values
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) <= 90 {
			checkAnswers(t, b)
		}
	})
}

func TestAnswersFitTheirBudget(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 30 {
		b := make([]byte, 3*(1+rng.IntN(12)))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		checkAnswers(t, b)
	}
}

func TestThousandsOfEventsMakeOneAnswer(t *testing.T) {
	var events []sandbox.Event
	for i := range 3_000 {
		s := fmt.Sprintf("value %d %s", i, strings.Repeat("x", 4000))
		events = append(events, result(plain(s)), display(plain(s)), display(map[string]string{"image/png": "bm90IGEgcG5n"}), sandbox.Event{Type: sandbox.EventError})
	}
	d := newDouble()
	d.scripts["code"] = sandbox.Execution{State: sandbox.ExecFailed, Events: events,
		Error: &sandbox.CodeError{Name: "E", Message: "m", Traceback: strings.Repeat("frame\n", 2000) + "the last error"}}
	r := call(t, tools.New(d, tools.Config{}), "execute_code", args{"code": "code"})
	s := toolstest.Text(t, r)
	if len(s) > answerBudget || len(r.Content) != 1 {
		t.Errorf("the answer has %d bytes and %d contents, want at most %d and 1", len(s), len(r.Content), answerBudget)
	}
	toolstest.WantText(t, r, false, "value 2999 xxx", "the last error", "2999 more errors", "more displays not shown")
}

// TestPageOfEscapesLosesNothing checks that if a page is cut because of its many escapes, the next pages show
// everything after the cut.
func TestPageOfEscapesLosesNothing(t *testing.T) {
	d := newDouble()
	d.scripts["code"] = sandbox.Execution{Events: []sandbox.Event{out(strings.Repeat("\x00\x01", 4000) + "\n"), result(plain("'the end'")), out("after\n")}}
	list := tools.New(d, tools.Config{})
	call(t, list, "execute_code", args{"code": "code"})
	escapes, ends, afters := 0, 0, 0
	for offset := 0; ; {
		s := toolstest.Text(t, call(t, list, "get_execution", args{"execution_id": letterID("exec_", 0), "offset": offset}))
		escapes += strings.Count(s, `\x00\x01`)
		ends += strings.Count(s, "'the end'")
		afters += strings.Count(s, "\nafter\n")
		m := nextPage.FindStringSubmatch(s)
		if m == nil {
			break
		}
		offset, _ = strconv.Atoi(m[1])
	}
	if escapes < 3990 || ends != 1 || afters != 1 { // some pairs are split between two pages and not counted
		t.Errorf("the pages have %d pairs of escapes, %d results and %d last lines; want 4000, 1 and 1", escapes, ends, afters)
	}
}

func TestManagementAnswersAreBounded(t *testing.T) {
	const maximum = 25_000
	d := newDouble()
	list := tools.New(d, tools.Config{})
	for i := range 100 {
		call(t, list, "create_sandbox", args{"display_name": fmt.Sprintf("%s%d", strings.Repeat("n", 60), i)})
	}
	for _, s := range d.sandboxes {
		s.Reason = strings.Repeat("because ", 500)
	}
	long := strings.Repeat("why ", 2000)
	for range 150 {
		d.sandboxes[0].Executions = append(d.sandboxes[0].Executions, sandbox.Execution{ID: "exec_x", State: sandbox.ExecRunning, Reason: long,
			Error: &sandbox.CodeError{Name: "E", Traceback: strings.Repeat("t", 100_000)}})
	}
	d.sandboxes[0].Kernels = []sandbox.Kernel{{Language: sandbox.Python, LastDeath: &sandbox.KernelDeath{Detail: long}}}
	var files []any
	for i := range 100 {
		files = append(files, map[string]any{"path": fmt.Sprintf("%s/%d", strings.Repeat("d/", 400), i), "text": "x"})
	}
	d.fail["WriteFile bad"] = sandbox.Errorf(sandbox.Invalid, "%s", strings.Repeat("no ", 30_000))
	id := string(d.sandboxes[0].ID)
	for _, c := range []struct {
		tool  string
		args  args
		wants string
		error bool
	}{
		{"list_sandboxes", args{"page_size": 100}, "There are more: call list_sandboxes with this page_token", false},
		{"get_sandbox", args{"sandbox_id": id}, "130 more executions wait and are not shown", false},
		{"write_files", args{"sandbox_id": id, "files": files}, "100 files written. The first ", false},
		{"write_files", args{"sandbox_id": id, "files": []any{map[string]any{"path": "bad", "text": "x"}}}, "no no", true},
	} {
		r := call(t, list, c.tool, c.args)
		toolstest.WantText(t, r, c.error, c.wants)
		if s := toolstest.Text(t, r); len(s) > maximum {
			t.Errorf("%s answers with %d bytes, want at most %d", c.tool, len(s), maximum)
		}
	}
}
