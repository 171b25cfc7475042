//go:build unix

package e2e_test

import (
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestACancelledCall checks that code is stopped if a client of the current protocol version cancels the call that runs it.
// If a client of an older protocol version cancels the call, the code must keep running, because these clients also cancel a
// call that exceeds their own timeout.
func TestACancelledCall(t *testing.T) {
	needsEngine(t)
	t.Parallel()
	h := newHome(t)
	s := h.connect(t)
	for _, c := range []struct {
		name, meta string
		still      bool // the code must keep running
	}{
		{"2026-07-28", `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}},`, false},
		{"2025-11-25", "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := s.with(t)
			id := s.create(nil)
			s.run(id, "kept = 1")
			p := rawStdio(t, h)
			call := rawCall("7", "execute_code", args{"sandbox_id": id, "code": "import time\nfor i in range(10_000):\n    open('i', 'w').write(str(i)); time.sleep(.05)"})
			p.send(strings.Replace(call, `"params":{`, `"params":{`+c.meta, 1))
			eventually(t, "the code runs", func() bool {
				return !s.call("read_file", args{"sandbox_id": id, "path": "i"}).IsError
			})
			p.send(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}`)
			if c.still {
				// The server handles a client's messages in order, so it has handled the cancellation when it answers the next call.
				p.send(rawCall("8", "list_sandboxes", nil))
				for !strings.Contains(p.next(), `"id":8`) {
				}
				number := regexp.MustCompile(`(?m)^\d+$`)
				counter := func() int {
					n, _ := strconv.Atoi(number.FindString(s.ok("read_file", args{"sandbox_id": id, "path": "i"}).Text))
					return n // 0 if the code has just truncated the file
				}
				var cancelled int
				eventually(t, "the counter can be read", func() bool { cancelled = counter(); return cancelled > 0 })
				eventually(t, "the code goes on counting", func() bool { return counter() > cancelled+20 })
				if running := executionsIn(s, id); running != 1 {
					t.Errorf("%d executions run after the client cancelled its call, want 1", running)
				}
				return
			}
			eventually(t, "the code has ended", func() bool { return executionsIn(s, id) == 0 })
			s.run(id, "kept", "1")
		})
	}
}

// executionsIn returns the number of running executions in a sandbox.
func executionsIn(s session, id string) int {
	running, _ := json.Marshal(s.ok("get_sandbox", args{"sandbox_id": id}).Structured["executions"])
	return strings.Count(string(running), `"exec_`)
}
