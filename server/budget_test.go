package server_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/server"
)

func TestStdioMessagesInFlightAreBounded(t *testing.T) {
	p := connect(t, server.Config{RequestBytes: 1 << 20})
	// Each string is short enough that the spool keeps it in memory.
	large := `"a":["` + strings.Repeat(strings.Repeat("x", 60_000)+`","`, 10) + `"]`
	p.send(toolCall(`"first"`, "wait", `{"ms":60000,`+large+`}`), toolCall(`"second"`, "wait", `{"ms":0,`+large+`}`))
	wantError(t, p.next(), "second", -32000, "more than 1 MiB of memory")
	p.send(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"first"}}`)
	p.wantAlive()
	eventually(t, "a message is accepted after another has ended", func() bool {
		p.send(toolCall(`"third"`, "wait", `{"ms":0,`+large+`}`))
		return p.next().Error == nil
	})
}

func TestANamedTokenLeavesMemoryForBodiesToTheOperator(t *testing.T) {
	const alice = "dormouse_alices-token-of-the-tests-0123456789"
	address, _ := serve(t, func(c *server.HTTPConfig) {
		token, err := server.NewToken("alice", alice)
		if err != nil {
			t.Fatal(err)
		}
		c.Tokens = append(c.Tokens, token)
		c.BodiesBytes = 4 << 20
	})
	// Two requests announce a body with Content-Length, but do not send the body. The budget counts their announced sizes.
	for range 2 {
		c := dial(t, address)
		io.WriteString(c, strings.Replace(post(address, 3<<19), secret, alice, 1))
	}
	eventually(t, "alice's bodies are counted", func() bool {
		_, metrics := ask(t, http.MethodGet, "http://"+address+"/metrics", "")
		return strings.Contains(metrics, "dormouse_http_body_bytes 3.145728e+06\n")
	})
	padded := toolCall("1", "echo", `{}`) + strings.Repeat(" ", 1<<19)
	if res, body := ask(t, http.MethodPost, "http://"+address+"/mcp", padded, "Authorization: Bearer "+alice); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("alice's third body: %d %s, want 503", res.StatusCode, body)
	}
	if res, body := ask(t, http.MethodPost, "http://"+address+"/mcp", padded); res.StatusCode != http.StatusOK {
		t.Errorf("the operator's body: %d %s, want 200", res.StatusCode, body)
	}
}
