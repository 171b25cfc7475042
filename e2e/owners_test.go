//go:build unix

package e2e_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// bearer is an HTTP client of the server s that authenticates with a token.
type bearer struct {
	s     *served
	token string
}

// ask sends a request with the client's token, and returns the status and the body of the answer.
func (b bearer) ask(method, path, body string) (int, string) {
	b.s.t.Helper()
	r, _ := http.NewRequest(method, b.s.url+path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+b.token)
	if method != "PUT" && body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	res, err := b.s.client.Do(r)
	if err != nil {
		b.s.t.Fatal(err)
	}
	defer res.Body.Close()
	answer, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(answer)
}

// must sends a request, fails the test unless it succeeds, and returns the id in the answer.
func (b bearer) must(method, path, body string) string {
	b.s.t.Helper()
	status, answer := b.ask(method, path, body)
	if status < 200 || status > 299 {
		b.s.t.Fatalf("%s %s = %d %s", method, path, status, answer)
	}
	var made struct {
		ID string `json:"id"`
	}
	_ = json.Unmarshal([]byte(answer), &made)
	return made.ID
}

// tool calls an MCP tool over HTTP and returns the answer as JSON.
func (b bearer) tool(name string, a args) string {
	b.s.t.Helper()
	arguments, _ := json.Marshal(a)
	_, answer := b.ask("POST", "/mcp", fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":%q,"arguments":%s}}`, name, arguments))
	return answer
}

// grant makes a token with `dormouse token add` and returns a client that uses this token.
func grant(t *testing.T, s *served, name string) bearer {
	t.Helper()
	out, errout, status := s.h.run("", "token", "add", name)
	if status != 0 || !strings.HasPrefix(out, "dormouse_") || errout != "" {
		t.Fatalf("dormouse token add %s: exit status %d, stdout %q, stderr %q; want 0 and only a token", name, status, out, errout)
	}
	return bearer{s, strings.TrimSpace(out)}
}

// TestCLIToken checks that `dormouse token` makes, lists and revokes tokens, and that a running server applies each change to
// the next request. Only the output of `token add` may contain a token.
func TestCLIToken(t *testing.T) {
	t.Parallel()
	h := newHome(t, noEngine...)
	early, _, status := h.run("", "token", "add", "early") // before any server has run in the home
	if status != 0 {
		t.Fatalf("token add in a new home: exit status %d, want 0", status)
	}
	s := startServe(t, h)
	alice := grant(t, s, "alice")
	for _, token := range []string{strings.TrimSpace(early), alice.token} {
		if status, _ := s.get("/v1/info", token); status != http.StatusOK {
			t.Errorf("a request with a new token: status %d, want 200", status)
		}
	}
	if out, _, _ := h.run("", "token", "ls"); out != "early\nalice\n" {
		t.Errorf("token ls prints %q, want early and alice", out)
	}
	for _, wrong := range [][]string{{"add", "alice"}, {"add", "Not A Name"}, {"rm", "nobody"}} {
		if out, errout, status := h.run("", "token", wrong[0], wrong[1]); status == 0 || out != "" || errout == "" || strings.Contains(errout, alice.token) {
			t.Errorf("token %v: exit status %d, stdout %q, stderr %q; want an error that contains no token", wrong, status, out, errout)
		}
	}
	if out, errout, status := h.run("", "token", "rm", "alice"); status != 0 || out != "alice\n" {
		t.Errorf("token rm alice: exit status %d, stdout %q, stderr %q; want 0 and the name", status, out, errout)
	}
	if status, body := s.get("/v1/info", alice.token); status != http.StatusUnauthorized {
		t.Errorf("a request with a revoked token: status %d, want 401: %s", status, body)
	}
	if info, err := os.Stat(filepath.Join(h.dir, "token")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the token file is %v (%v), want mode 0600", info, err)
	}
	os.Chmod(filepath.Join(h.dir, "token"), 0o644)
	if _, errout, status := h.run("", "token", "add", "eve"); status == 0 || !strings.Contains(errout, "other users may have read") {
		t.Errorf("token add to a file that others can read: exit status %d, stderr %q; want an error that explains it", status, errout)
	}
	if status, _ := s.get("/v1/info", strings.TrimSpace(early)); status != http.StatusUnauthorized {
		t.Errorf("a request while others can read the token file: status %d, want 401", status)
	}
	eventually(t, "the log says that all requests are refused", func() bool { return strings.Contains(s.log(), "all requests are refused") })
	if log := s.log(); strings.Contains(log, alice.token) || strings.Contains(log, strings.TrimSpace(early)) {
		t.Errorf("the log contains a token:\n%s", log)
	}
}

// TestS03_TwoTokens checks, with a real engine, that an owner cannot find out about another owner's sandboxes. If bob requests
// alice's sandboxes, over REST, with MCP tools or as MCP resources, the answers must have the same status and text as for
// sandboxes that do not exist. The operator must see the sandboxes of both. If alice's token is revoked and she gets a new
// token, she must have access to her sandboxes again.
func TestS03_TwoTokens(t *testing.T) {
	t.Parallel()
	h := newHome(t, platforms(t)[0].env...)
	s := startServe(t, h)
	alice, bob, operator := grant(t, s, "alice"), grant(t, s, "bob"), bearer{s, s.token}
	box := alice.must("POST", "/v1/sandboxes", `{"display_name":"sales","request_id":"one"}`)
	his := bob.must("POST", "/v1/sandboxes", `{"display_name":"sales","request_id":"one"}`)
	if box == his || box == "" {
		t.Fatalf("alice created the sandbox %q and bob %q, want two different ones", box, his)
	}
	execution := alice.must("POST", "/v1/sandboxes/sales/executions", `{"code":"secret = 42\nopen('a.txt','w').write('hers')","wait_seconds":60,"request_id":"two"}`)
	const none, neverRan = "sbx_aaaaaaaaaaaaaaaaaaaaaaaaaa", "exec_aaaaaaaaaaaaaaaaaaaaaaaaaa"
	alike := strings.NewReplacer(none, box, neverRan, execution)
	same := func(what string, ask func(box, execution string) (int, string)) {
		t.Helper()
		status, says := ask(box, execution)
		wantStatus, want := ask(none, neverRan)
		if status != wantStatus || says != alike.Replace(want) || !strings.Contains(says, "here is no ") {
			t.Errorf("%s of alice's sandbox: status %d, %s; of a sandbox that does not exist: status %d, %s; want the same answer", what, status, says, wantStatus, want)
		}
	}
	for _, c := range []struct{ method, path, body string }{
		{"GET", "/v1/sandboxes/BOX", ""}, {"PATCH", "/v1/sandboxes/BOX", `{"ttl":"1h"}`}, {"DELETE", "/v1/sandboxes/BOX", ""},
		{"POST", "/v1/sandboxes/BOX/executions", `{"code":"secret"}`}, {"POST", "/v1/sandboxes/BOX/executions", `{"code":"secret","request_id":"three"}`},
		{"GET", "/v1/executions/EXEC", ""}, {"GET", "/v1/executions/EXEC/events", ""}, {"POST", "/v1/executions/EXEC/interrupt", ""},
		{"GET", "/v1/sandboxes/BOX/files", ""}, {"GET", "/v1/sandboxes/BOX/files/a.txt", ""}, {"PUT", "/v1/sandboxes/BOX/files/b.txt", "his"},
	} {
		same(c.method+" "+c.path, func(box, execution string) (int, string) {
			return bob.ask(c.method, strings.NewReplacer("BOX", box, "EXEC", execution).Replace(c.path), c.body)
		})
	}
	for name, a := range map[string]args{
		"get_sandbox": {"sandbox_id": "BOX"}, "update_sandbox": {"sandbox_id": "BOX", "ttl": "1h"}, "delete_sandbox": {"sandbox_id": "BOX"},
		"execute_code": {"sandbox_id": "BOX", "code": "secret"}, "read_file": {"sandbox_id": "BOX", "path": "a.txt"},
		"write_files":   {"sandbox_id": "BOX", "files": []any{args{"path": "b.txt", "text": "his"}}},
		"get_execution": {"execution_id": "EXEC"}, "interrupt_execution": {"execution_id": "EXEC"},
	} {
		same(name, func(box, execution string) (int, string) {
			mine := args{}
			for k, v := range a {
				switch v {
				case "BOX":
					v = box
				case "EXEC":
					v = execution
				}
				mine[k] = v
			}
			return 200, bob.tool(name, mine)
		})
	}
	same("a resource", func(box, _ string) (int, string) {
		return bob.ask("POST", "/mcp", fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"sandbox://%s/files/a.txt"}}`, box))
	})
	if status, says := bob.ask("GET", "/v1/executions?request_id=two", ""); status != http.StatusNotFound {
		t.Errorf("bob requests an execution by alice's request id: status %d, want 404: %s", status, says)
	}

	for who, list := range map[bearer][2]bool{alice: {true, false}, bob: {false, true}, operator: {true, true}} {
		_, rest := who.ask("GET", "/v1/sandboxes", "")
		for _, text := range []string{rest, who.tool("list_sandboxes", args{})} {
			if strings.Contains(text, box) != list[0] || strings.Contains(text, his) != list[1] {
				t.Errorf("the list of sandboxes is %s, want it to contain alice's and bob's: %v", text, list)
			}
		}
	}
	if out, _, _ := h.run("", "ls", "--json"); !strings.Contains(out, box) || !strings.Contains(out, his) {
		t.Errorf("dormouse ls lists %s, want the sandboxes of both", out)
	}

	// The metrics also count executions that were started over REST. Any client with a token may read these totals.
	if _, metrics := bob.ask("GET", "/metrics", ""); !strings.Contains(metrics, "dormouse_executions_started_total 1\n") || !strings.Contains(metrics, `dormouse_executions_ended_total{state="succeeded"} 1`) {
		t.Errorf("the metrics do not count one execution that succeeded: %s", metrics)
	}

	if _, errout, status := h.run("", "token", "rm", "alice"); status != 0 {
		t.Fatal(errout)
	}
	if status, _ := alice.ask("GET", "/v1/sandboxes/"+box, ""); status != http.StatusUnauthorized {
		t.Errorf("a request with a revoked token: status %d, want 401", status)
	}
	alice = grant(t, s, "alice")
	if says := alice.tool("execute_code", args{"sandbox_id": "sales", "code": "print(secret, open('a.txt').read())"}); !strings.Contains(says, "42 hers") {
		t.Errorf("execute_code with alice's new token returned %s, want 42 hers", says)
	}
}
