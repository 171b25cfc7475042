package tools_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools"
	"github.com/dormouse-sandbox/dormouse/tools/toolstest"
)

// TestLenientArguments checks that tools accept the variants of arguments that clients are known to send.
func TestLenientArguments(t *testing.T) {
	for _, c := range []struct {
		name      string
		arguments any
	}{
		{"numbers as strings", args{"code": "1", "wait_seconds": "45", "timeout_seconds": " 10 "}},
		{"whole floats", args{"code": "1", "timeout_seconds": 10.0}},
		{"null for absent", args{"code": "1", "sandbox_id": nil, "files": nil, "timeout_seconds": nil, "language": nil}},
		{"empty for absent", args{"code": "1", "sandbox_id": "", "request_id": "", "language": "", "timeout_seconds": ""}},
		{"a list as a string", args{"code": "1", "files": `[{"path":"a.txt","text":"x"}]`}},
		{"one file without a list", args{"code": "1", "files": args{"path": "a.txt", "text": "x"}}},
		{"all arguments as a string", `{"code": "1"}`},
		{"a language's short name", args{"code": "1", "language": "JS"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			toolstest.WantText(t, call(t, tools.New(newDouble(), tools.Config{}), "execute_code", c.arguments), false, "succeeded")
		})
	}
}

func TestTTLForms(t *testing.T) {
	list := tools.New(newDouble(), tools.Config{})
	for _, ttl := range []any{"24h", "14d", "90m", 3600, "3600", 1209600} {
		toolstest.WantText(t, call(t, list, "create_sandbox", args{"ttl": ttl}), false, "is ready")
	}
	for _, ttl := range []any{"0", 0, "15d", "tomorrow", -1, 1209601, true, []int{1}} {
		toolstest.WantText(t, call(t, list, "create_sandbox", args{"ttl": ttl}), true, "ttl")
	}
}

// TestS05_RefusedArguments checks that each error about arguments describes the wrong value and the expected one.
func TestS05_RefusedArguments(t *testing.T) {
	for _, c := range []struct {
		name, tool string
		arguments  any
		wantWords  []string
	}{
		{"missing", "execute_code", args{}, []string{`execute_code needs code, for example "code": "print(1 + 1)"`}},
		{"no arguments", "get_sandbox", nil, []string{"get_sandbox needs sandbox_id"}},
		{"empty", "execute_code", args{"code": ""}, []string{"code is empty"}},
		{"far beyond any file", "read_file", args{"sandbox_id": "x", "path": "a", "offset": 1e30}, []string{"offset is 1000000000000000000000000000000", "no file and no output is that long"}},
		{"far beyond any output", "get_execution", args{"execution_id": "exec_x", "offset": "1e30"}, []string{"no file and no output is that long"}},
		{"blank", "execute_code", args{"code": " \n"}, []string{"code is empty"}},
		{"NUL byte", "execute_code", args{"code": "a\x00b"}, []string{"NUL character at byte 1"}},
		{"too long", "execute_code", args{"code": strings.Repeat("x", sandbox.MaxCodeBytes+1)}, []string{"1048577 bytes", "write_files"}},
		{"misspelt", "execute_code", args{"code": "1", "sandboxid": "x"}, []string{`no parameter "sandboxid"`, `did you mean "sandbox_id"?`}},
		{"shortened", "execute_code", args{"code": "1", "timeout": 5}, []string{`did you mean "timeout_seconds"?`}},
		{"unknown", "delete_sandbox", args{"sandbox_id": "x", "zzzzzz": 5}, []string{`no parameter "zzzzzz".`, "It takes sandbox_id"}},
		{"a number for text", "execute_code", args{"code": 5}, []string{"code must be a string, and is the number 5"}},
		{"a list for text", "execute_code", args{"code": []string{"a"}}, []string{"code must be a string, and is a list of 1"}},
		{"text for a number", "execute_code", args{"code": "1", "wait_seconds": "soon"}, []string{`wait_seconds must be a number, and is the string "soon"`}},
		{"a fraction", "execute_code", args{"code": "1", "timeout_seconds": 1.5}, []string{"timeout_seconds must be a whole number"}},
		{"not finite", "execute_code", args{"code": "1", "wait_seconds": "NaN"}, []string{"wait_seconds must be a number"}},
		{"a list of arguments", "execute_code", []int{1}, []string{"the arguments are a list of 1"}},
		{"no such language", "execute_code", args{"code": "1", "language": "rust"}, []string{"python or javascript"}},
		{"no such state", "list_sandboxes", args{"state": "asleep"}, []string{"is not a state"}},
		{"nothing to change", "update_sandbox", args{"sandbox_id": "x"}, []string{"nothing to change"}},
		{"a new ttl that is too long", "update_sandbox", args{"sandbox_id": "x", "ttl": "15d"}, []string{"ttl", "14 days"}},
		{"a new display_name that begins like an id", "update_sandbox", args{"sandbox_id": "x", "display_name": "sbx_x"}, []string{"display_name must not begin"}},
		{"a display_name that begins like an id", "create_sandbox", args{"display_name": "sbx_x"}, []string{"display_name must not begin"}},
		{"a request_id that is not ASCII", "execute_code", args{"code": "1", "request_id": "é"}, []string{"request_id must be printable ASCII"}},
		{"a wait that is too long", "get_execution", args{"execution_id": "exec_x", "wait_seconds": 301}, []string{"wait_seconds is 301: use 0 to 300"}},
		{"a negative offset in a file", "read_file", args{"sandbox_id": "x", "path": "a", "offset": -1}, []string{"offset is -1"}},
		{"a negative offset in output", "get_execution", args{"execution_id": "exec_x", "offset": -1}, []string{"offset is -1"}},
		{"a path that leaves the workspace", "read_file", args{"sandbox_id": "x", "path": "../a"}, []string{`has a ".."`}},
		{"files is a number", "write_files", args{"sandbox_id": "x", "files": 5}, []string{"files must be a list of files"}},
		{"files is text", "write_files", args{"sandbox_id": "x", "files": "a.txt"}, []string{"files must be a list of files"}},
		{"no files", "write_files", args{"sandbox_id": "x", "files": []int{}}, []string{"nothing to write"}},
		{"a fork of nobody", "create_sandbox", args{"fork_of": "x"}, []string{`no sandbox "x"`}},
		{"a fork with its own limits", "create_sandbox", args{"fork_of": "x", "memory_mb": 512}, []string{"leave them out"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDouble()
			toolstest.WantText(t, call(t, tools.New(d, tools.Config{}), c.tool, c.arguments), true, c.wantWords...)
			if len(d.sandboxes) > 0 {
				t.Error("a refused call made a sandbox")
			}
		})
	}
}

// TestS05_Bounds checks each limit n of a number with the values n−1, n and n+1.
func TestS05_Bounds(t *testing.T) {
	for _, c := range []struct {
		tool, name string
		low, high  float64
		step       float64
	}{
		{"execute_code", "timeout_seconds", 1, 86400, 1},
		{"execute_code", "wait_seconds", 0, 300, 1},
		{"create_sandbox", "memory_mb", 128, 65536, 1},
		{"create_sandbox", "cpus", 0.1, 64, 0.01},
		{"create_sandbox", "ttl", 1, 1209600, 1},
		{"list_sandboxes", "page_size", 1, 100, 1},
	} {
		for _, v := range []struct {
			value float64
			good  bool
		}{{c.low - c.step, false}, {c.low, true}, {c.low + c.step, true}, {c.high - c.step, true}, {c.high, true}, {c.high + c.step, false}, {1e9, false}, {-1, false}} {
			t.Run(fmt.Sprintf("%s %s %v", c.tool, c.name, v.value), func(t *testing.T) {
				a := args{c.name: v.value}
				if c.tool == "execute_code" {
					a["code"] = "1"
				}
				r := call(t, tools.New(newDouble(), tools.Config{}), c.tool, a)
				if r.IsError == v.good {
					t.Errorf("accepted = %v, want %v: %s", !r.IsError, v.good, toolstest.Text(t, r))
				}
				if !v.good {
					toolstest.WantText(t, r, true, c.name)
				}
			})
		}
	}
}

// FuzzToolArguments checks that no arguments make a tool panic and that every answer begins with text.
func FuzzToolArguments(f *testing.F) {
	for _, s := range []string{
		`{}`, `null`, `[]`, `"{}"`, `{"code":"1"}`, `{"code":"1","files":"[{}]"}`, `{"files":[{"path":"a","base64":"data:;base64,AA=="}],"sandbox_id":"x"}`,
		`{"sandbox_id":"x","path":"../a","offset":1e300,"length":-1}`, `{"ttl":1e999}`, `{"ttl":"9e99d"}`, `{"execution_id":"exec_x","offset":"NaN"}`, `{"code":{"a":[null,true]}}`,
	} {
		f.Add(s)
	}
	list := tools.New(newDouble(), tools.Config{AllowDirs: []string{f.TempDir()}})
	f.Fuzz(func(t *testing.T, s string) {
		var v any
		if json.Unmarshal([]byte(s), &v) != nil {
			v = s
		}
		for _, tool := range list {
			if m, ok := v.(map[string]any); ok && tool.Definition.Name != "execute_code" && tool.Definition.Name != "create_sandbox" {
				m["sandbox_id"] = "nobody"
			}
			toolstest.Text(t, tool.Call(t.Context(), v))
		}
	})
}
