//go:build unix

package e2e_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// TestTenThousandCreates checks that ten thousand calls of create_sandbox make only as many sandboxes as --max-sandboxes
// allows. Each further call must get an error that names the limit. During these calls, code must run in an existing sandbox.
// The test turns off idle suspend, because otherwise each call that finds no capacity waits a second for an idle sandbox to
// be suspended.
func TestTenThousandCreates(t *testing.T) {
	needsEngine(t)
	h := newHome(t, "DORMOUSE_MAX_SANDBOXES=3", "DORMOUSE_IDLE_SUSPEND=0")
	s := startServe(t, h)
	c := h.connect(t)
	id := c.create(nil)

	create := []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"create_sandbox","arguments":{}}}`)
	var made, refused atomic.Int32
	todo := make(chan struct{}, 10_000)
	for range cap(todo) {
		todo <- struct{}{}
	}
	close(todo)
	var clients sync.WaitGroup
	for range 50 {
		clients.Go(func() {
			for range todo {
				r, _ := http.NewRequest("POST", s.url+"/mcp", bytes.NewReader(create))
				r.Header.Set("Authorization", "Bearer "+s.token)
				r.Header.Set("Content-Type", "application/json")
				res, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				switch text := string(body); {
				case err == nil && strings.Contains(text, "is ready"):
					made.Add(1)
				case err == nil && strings.Contains(text, `"isError":true`) && strings.Contains(text, "3 sandboxes are running"):
					refused.Add(1)
				default:
					t.Errorf("create_sandbox: status %d, body %s, error %v; want a sandbox or the error that 3 are running", res.StatusCode, body, err)
					return
				}
			}
		})
	}
	for range 5 {
		c.run(id, "6 * 7", "42")
	}
	clients.Wait()
	if made.Load() != 2 || refused.Load() != 9_998 {
		t.Errorf("%d calls created a sandbox and %d were refused, want 2 and 9,998", made.Load(), refused.Load())
	}
	out, _, _ := h.run("", "ls", "--json")
	var sandboxes []json.RawMessage
	if err := json.Unmarshal([]byte(out), &sandboxes); err != nil || len(sandboxes) != 3 {
		t.Errorf("dormouse ls lists %d sandboxes (%v), want 3: %s", len(sandboxes), err, out)
	}
}
