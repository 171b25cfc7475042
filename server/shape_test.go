package server_test

import (
	"encoding/json"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/server"
)

// allocated returns the total number of bytes that f allocates, including bytes that are freed again.
func allocated(f func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

func TestWideAndDeepMessagesAreRefusedBeforeDecoding(t *testing.T) {
	const wide, deep = "more than 10,000 values", "more than 64 levels"
	objects := `[` + strings.Repeat(`{},`, 7<<20/3) + `{}]`
	nested := strings.Repeat(`[`, 5000) + strings.Repeat(`]`, 5000)
	const maximum = 160 << 20 // bytes that refusing a message may allocate; decoding the wide message would allocate over 600 MiB
	for name, c := range map[string]struct{ arguments, says string }{
		"an array of 2.4 million objects": {`{"a":` + objects + `}`, wide},
		"5,000 levels":                    {`{"a":` + nested + `}`, deep},
		"an object of 20,000 keys":        {`{` + strings.Repeat(`"a":0,`, 20_000) + `"a":0}`, wide},
	} {
		message := toolCall("7", "echo", c.arguments)
		t.Run("stdio/"+name, func(t *testing.T) {
			p := connect(t, server.Config{})
			if n := allocated(func() { p.send(message); wantError(t, p.next(), 7.0, -32600, c.says) }); n > maximum {
				t.Errorf("the message cost %d MiB of allocations, want at most %d", n>>20, maximum>>20)
			}
			p.wantAlive()
		})
		address, _ := serve(t, nil)
		t.Run("mcp/"+name, func(t *testing.T) {
			n := allocated(func() {
				res, body := ask(t, http.MethodPost, "http://"+address+"/mcp", message)
				var a answer
				if err := json.Unmarshal([]byte(body), &a); err != nil || res.StatusCode != http.StatusBadRequest {
					t.Errorf("got %d and %.200s, want 400 and a JSON-RPC error", res.StatusCode, body)
				}
				a.raw = body
				wantError(t, a, 7.0, -32600, c.says)
			})
			if n > maximum {
				t.Errorf("the message cost %d MiB of allocations, want at most %d", n>>20, maximum>>20)
			}
			wantAliveHTTP(t, address)
		})
		t.Run("sse/"+name, func(t *testing.T) {
			stream := openSSE(t, address)
			if res, body := ask(t, http.MethodPost, stream.endpoint, message); res.StatusCode != http.StatusBadRequest || !strings.Contains(body, c.says) {
				t.Errorf("got %d and %.200s, want 400 and %q", res.StatusCode, body, c.says)
			}
			stream.post(toolCall("8", "echo", `{}`))
			if a := stream.next(); a.ID != 8.0 {
				t.Errorf("got %s, want the answer to the next message", a.raw)
			}
		})
	}
}

func TestWideJSONInAStringArgumentIsRefused(t *testing.T) {
	address := serveTools(t)
	objects := `[` + strings.Repeat(`{},`, 20_000) + `{}]`
	quoted, err := json.Marshal(objects)
	if err != nil {
		t.Fatal(err)
	}
	for name, arguments := range map[string]string{
		"files":         `{"sandbox_id":"x","files":` + string(quoted) + `}`,
		"the arguments": string(quoted),
	} {
		t.Run(name, func(t *testing.T) {
			if _, body := ask(t, http.MethodPost, "http://"+address+"/mcp", toolCall("1", "write_files", arguments)); !strings.Contains(body, "more than 10,000 values") {
				t.Errorf("got %.300s, want the limit of values", body)
			}
		})
	}
}
