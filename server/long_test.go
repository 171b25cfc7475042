package server_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/server"
	"github.com/dormouse-sandbox/dormouse/server/spool"
	"github.com/dormouse-sandbox/dormouse/tools"
)

func openSpool(t testing.TB, maximum int64) *spool.Folder {
	t.Helper()
	f, err := spool.Open(filepath.Join(t.TempDir(), "spool"), maximum)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// longTools returns fakeTools and two further tools: "sum", which returns a checksum of its argument and whether the argument
// was in memory or on disk, and "large", which returns a large file.
func longTools() []tools.Tool {
	var readFile tools.Tool
	for _, t := range tools.New(oneFile{size: 60_000_000}, tools.Config{}) {
		if t.Definition.Name == "read_file" {
			readFile = t
		}
	}
	definition := func(name string) mcp.Tool {
		return mcp.Tool{Name: name, RawInputSchema: json.RawMessage(`{"type":"object"}`)}
	}
	return append(fakeTools(),
		tools.Tool{Definition: definition("sum"), Call: func(_ context.Context, a any) *mcp.CallToolResult {
			arguments, _ := a.(map[string]any)
			switch s := arguments["a"].(type) {
			case string:
				return mcp.NewToolResultText("in memory " + sum(s))
			case tools.LongText:
				b, err := io.ReadAll(s.Open())
				if err != nil || int64(len(b)) != s.Size() {
					return mcp.NewToolResultError(fmt.Sprint(len(b), err))
				}
				return mcp.NewToolResultText("on disk " + sum(string(b)))
			}
			return mcp.NewToolResultError(fmt.Sprintf("a is a %T", arguments["a"]))
		}},
		tools.Tool{Definition: definition("large"), Call: func(ctx context.Context, a any) *mcp.CallToolResult {
			tools.Report(ctx, time.Second, "half way")
			return readFile.Call(ctx, map[string]any{"sandbox_id": "box", "path": "f", "length": a.(map[string]any)["size"]})
		}},
	)
}

func sum(s string) string { return fmt.Sprintf("%d %x", len(s), sha256.Sum256([]byte(s))) }

var transports = []string{"stdio", "http", "sse"}

// rawClient sends raw messages and reads answers over any transport.
type rawClient struct {
	send func(string)
	next func() answer
}

// connectRaw starts a server with a limit for the size of messages, and returns a client.
func connectRaw(t *testing.T, kind string, folder *spool.Folder, limit int) rawClient {
	t.Helper()
	if kind == "stdio" {
		p := connectTo(t, server.New(longTools(), server.Config{Spool: folder, MaxMessageBytes: limit}))
		return rawClient{func(s string) { p.send(s) }, func() answer { t.Helper(); return nextAnswer(t, p.tryNext) }}
	}
	address, _ := serveOf(t, longTools(), folder, func(c *server.HTTPConfig) { c.MaxBody = int64(limit) })
	if kind == "http" {
		answers := make(chan answer, 100)
		return rawClient{func(s string) {
			go func() {
				a := answer{}
				_, a.raw = ask(t, "POST", "http://"+address+"/mcp", s)
				for _, line := range strings.Split(a.raw, "\n") { // if the answer is an event stream, skip the notifications before the response
					line = strings.TrimPrefix(line, "data: ")
					if strings.HasPrefix(line, "{") && json.Unmarshal([]byte(line), &a) == nil && a.Method == "" {
						break
					}
					a = answer{raw: a.raw}
				}
				answers <- a
			}()
		}, func() answer {
			t.Helper()
			return nextAnswer(t, func(wait time.Duration) (answer, error) {
				select {
				case a := <-answers:
					return a, nil
				case <-time.After(wait):
					return answer{}, errors.New("no answer in time")
				}
			})
		}}
	}
	s := openSSE(t, address)
	refused := make(chan answer, 100)
	return rawClient{func(m string) {
		if res, body := ask(t, "POST", s.endpoint, m); res.StatusCode != http.StatusAccepted {
			a := answer{raw: body}
			json.Unmarshal([]byte(body), &a)
			refused <- a
		}
	}, func() answer {
		t.Helper()
		for {
			select {
			case a := <-refused:
				return a
			default:
			}
			if a := s.next(); a.Method == "" {
				return a
			}
		}
	}}
}

func nextAnswer(t *testing.T, next func(time.Duration) (answer, error)) answer {
	t.Helper()
	for {
		a, err := next(60 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if a.Method == "" {
			return a
		}
	}
}

// TestLongStrings checks that a tool reads the string that the client sent, whether it was in memory or on disk, and that
// nothing stays on disk.
func TestLongStrings(t *testing.T) {
	pad := strings.Repeat("0123456789abcdef", 20_000)
	for _, kind := range transports {
		t.Run(kind, func(t *testing.T) {
			folder := openSpool(t, 0)
			c := connectRaw(t, kind, folder, 4<<20)
			for _, s := range []struct{ json, text, where string }{
				{`"` + pad + `"`, pad, "on disk"},
				{`"` + pad + `\n\u00e9\uD83D\uDE00\"\\é"`, pad + "\n\u00e9\U0001F600\"\\é", "on disk"},
				{`"` + pad[:65536] + `"`, pad[:65536], "in memory"},
				{`"` + pad[:65537] + `"`, pad[:65537], "on disk"},
				{`"spool:ABCDEFGHIJKLMNOPQRSTUVWXYZ:0"`, "spool:ABCDEFGHIJKLMNOPQRSTUVWXYZ:0", "in memory"},
				{`"spool::0"`, "spool::0", "in memory"},
				{`"spool:0","b":"` + pad + `"`, "spool:0", "in memory"},
				{`"first","a":"` + pad + `","b":["` + pad + `",{"c":"` + pad + `"}]`, pad, "on disk"},
			} {
				c.send(toolCall("1", "sum", `{"a":`+s.json+`}`))
				if a, want := c.next(), s.where+" "+sum(s.text); a.text() != want {
					t.Errorf("%.80s: %.300s, want %s", s.json, a.raw, want)
				}
			}
			eventually(t, "no long strings are on disk", func() bool { return folder.Used() == 0 })
		})
	}
}

// TestLongStringsOutsideArgumentsAreRefused checks that a long string outside the arguments of a tool is refused, and that
// no answer contains the spool's placeholder for such a string.
func TestLongStringsOutsideArgumentsAreRefused(t *testing.T) {
	pad := strings.Repeat("x", 100_000)
	for _, kind := range transports {
		t.Run(kind, func(t *testing.T) {
			folder := openSpool(t, 0)
			c := connectRaw(t, kind, folder, 4<<20)
			for name, m := range map[string]string{
				"the method":                   `{"jsonrpc":"2.0","id":7,"method":"` + pad + `"}`,
				"the tool":                     toolCall("7", pad, `{}`),
				"the progress token":           `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"sum","arguments":{},"_meta":{"progressToken":"` + pad + `"}}}`,
				"a field beside the arguments": `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"sum","arguments":{"a":"` + pad + `"},"b":"` + pad + `"}}`,
				"the params of another method": `{"jsonrpc":"2.0","id":7,"method":"initialize","params":{"protocolVersion":"` + pad + `"}}`,
				"the first of two arguments":   `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"sum","arguments":{"a":"` + pad + `"},"arguments":{}}}`,
				"the version":                  `{"jsonrpc":"` + pad + `","id":7,"method":"ping"}`,
			} {
				c.send(m)
				if a := c.next(); a.ID != 7.0 || a.Error == nil || a.Error.Code != -32600 || !strings.Contains(a.Error.Message, "64 KiB") || strings.Contains(a.raw, "spool:") {
					t.Errorf("a long string in %s: %.300s, want error -32600 for id 7", name, a.raw)
				}
			}
			c.send(`{"jsonrpc":"2.0","id":"` + pad + `","method":"ping"}`)
			if a := c.next(); a.ID != nil || a.Error == nil || strings.Contains(a.raw, "spool:") {
				t.Errorf("a long id: %.300s, want an error without an id", a.raw)
			}
			c.send(toolCall("1", "sum", `"`+pad+`"`)) // the arguments are one long string, which the tool and not the server refuses
			if a := c.next(); a.Result["isError"] != true || strings.Contains(a.raw, "spool:") {
				t.Errorf("a long string as the arguments: %.300s, want an error of the tool", a.raw)
			}
			c.send(toolCall("2", "sum", `{"`+pad+`":1}`)) // a long name of a field stays in memory and is not refused
			if a := c.next(); a.ID != 2.0 || a.Result["isError"] != true {
				t.Errorf("a long field name: %.300s, want an answer to 2 that is an error of the tool", a.raw)
			}
			eventually(t, "no long strings are on disk", func() bool { return folder.Used() == 0 })
		})
	}
}

// TestRefusedLongMessagesAreAnsweredWithTheirIDs checks that a refused message is read to its end and answered with its id,
// and that the next call works.
func TestRefusedLongMessagesAreAnsweredWithTheirIDs(t *testing.T) {
	pad := strings.Repeat("x", 1<<20)
	for _, kind := range transports {
		t.Run(kind, func(t *testing.T) {
			folder := openSpool(t, 3<<20)
			c := connectRaw(t, kind, folder, 6<<20)
			for _, m := range []struct {
				name, message string
				code          int
				says          string
			}{
				{"longer than the limit of a message", toolCall("7", "sum", `{"a":"`+strings.Repeat(pad, 7)+`"}`), -32600, "longer than 6 MiB"},
				{"longer than the free space of the spool", toolCall("7", "sum", `{"a":"`+strings.Repeat(pad, 4)+`"}`), -32000, "try again"},
				{"an id at the end", `{"method":"tools/call","params":{"name":"sum","arguments":{"a":"` + strings.Repeat(pad, 4) + `"}},"id":7,"jsonrpc":"2.0"}`, -32000, "try again"},
				{"invalid UTF-8", toolCall("7", "sum", `{"a":"`+pad+"\xff"+`"}`), -32700, "not valid UTF-8"},
				{"a bad escape", toolCall("7", "sum", `{"a":"`+pad+`\x"}`), -32700, "escape"},
			} {
				c.send(m.message)
				if a := c.next(); a.ID != 7.0 || a.Error == nil || a.Error.Code != m.code || !strings.Contains(a.Error.Message, m.says) {
					t.Errorf("the answer to %s: %.300s, want error %d for id 7 with %q", m.name, a.raw, m.code, m.says)
				}
				c.send(toolCall("1", "sum", `{"a":"`+pad+`"}`))
				if a := c.next(); a.text() != "on disk "+sum(pad) {
					t.Fatalf("the call after %s: %.300s, want its answer", m.name, a.raw)
				}
			}
			for _, m := range []string{
				toolCall("7", "sum", `{"a":"`+pad),
				toolCall("7", "sum", `{"a":"`+pad+`"}`) + toolCall("8", "sum", `{"a":"`+pad+`"}`),
				"[" + toolCall("7", "sum", `{"a":"`+pad+`"}`) + "]",
				strings.Repeat("[", 100_000),
				`{"a":` + strings.Repeat("1", 1<<20) + `}`,
			} {
				c.send(m)
				if a := c.next(); a.Error == nil || strings.Contains(a.raw, "spool:") {
					t.Errorf("the answer to %.100s: %.300s, want an error without a placeholder", m, a.raw)
				}
			}
			eventually(t, "no long strings are on disk", func() bool { return folder.Used() == 0 })
		})
	}
}

// TestLongAnswers checks that a large file is returned in base64, with and without progress notifications before the answer.
func TestLongAnswers(t *testing.T) {
	for _, kind := range transports {
		for _, meta := range []string{``, `,"_meta":{"progressToken":"tok"}`} {
			t.Run(kind+meta, func(t *testing.T) {
				folder := openSpool(t, 8<<20)
				c := connectRaw(t, kind, folder, 4<<20)
				for _, size := range []int{1<<20 + 1, 5_000_000} {
					c.send(fmt.Sprintf(`{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"large","arguments":{"size":%d}%s}}`, size, meta))
					a := c.next()
					content, _ := a.Result["content"].([]any)
					if len(content) != 2 || a.ID != 9.0 {
						t.Fatalf("got %.300s, want two contents for id 9", a.raw)
					}
					resource := content[1].(map[string]any)["resource"].(map[string]any)
					b, err := base64.StdEncoding.DecodeString(resource["blob"].(string))
					if err != nil || !bytes.Equal(b, pattern(size)) {
						t.Errorf("reading %d bytes returned %d bytes or other content (%v)", size, len(b), err)
					}
				}
				c.send(toolCall("1", "large", `{"size":9000000}`))
				if a := c.next(); a.Result["isError"] != true || !strings.Contains(a.text(), "too many large messages at once") {
					t.Errorf("an answer that does not fit into the spool: %.300s, want an error", a.raw)
				}
				eventually(t, "no long strings are on disk", func() bool { return folder.Used() == 0 })
			})
		}
	}
}

// TestLongClients checks that mcp-go's client can send and receive long strings, with the newest and the oldest protocol
// version.
func TestLongClients(t *testing.T) {
	t.Parallel()
	folder := openSpool(t, 0)
	address, _ := serveOf(t, longTools(), folder, nil)
	text := strings.Repeat("some \"text\" of é漢\n", 20_000)
	const size = 1<<20 + 1 // a file of 1 MiB or less would not go through the spool
	for _, kind := range []string{"streamable", "sse"} {
		for _, version := range []string{"2026-07-28", "2024-11-05"} {
			c := connectHTTP(t, kind, version, address)
			call := mcp.CallToolRequest{}
			call.Params.Name, call.Params.Arguments = "sum", map[string]any{"a": text}
			if r, err := c.CallTool(t.Context(), call); err != nil || r.Content[0].(mcp.TextContent).Text != "on disk "+sum(text) {
				t.Errorf("%s %s: the answer to a long argument is %v, %v, want its length and sum", kind, version, r, err)
			}
			call.Params.Name, call.Params.Arguments = "large", map[string]any{"size": size}
			r, err := c.CallTool(t.Context(), call)
			if err != nil || len(r.Content) != 2 {
				t.Fatalf("%s %s: the long answer is %v, %v, want two contents", kind, version, r, err)
			}
			blob := r.Content[1].(mcp.EmbeddedResource).Resource.(mcp.BlobResourceContents).Blob
			if blob != base64.StdEncoding.EncodeToString(pattern(size)) {
				t.Errorf("%s %s: the answer contains another file than was read", kind, version)
			}
		}
	}
	eventually(t, "no long strings are on disk", func() bool { return folder.Used() == 0 })
}

// TestConcurrentLongMessagesAreNotMixedUp checks that many concurrent long messages, all with the same id, are not mixed up.
func TestConcurrentLongMessagesAreNotMixedUp(t *testing.T) {
	t.Parallel()
	for _, kind := range transports {
		t.Run(kind, func(t *testing.T) {
			folder := openSpool(t, 0)
			c := connectRaw(t, kind, folder, 4<<20)
			want := map[string]int{}
			for i := range 20 {
				s := strings.Repeat(fmt.Sprint(i, " "), 100_000)
				want["on disk "+sum(s)]++
				c.send(toolCall("1", "sum", `{"a":"`+s+`"}`))
			}
			for range 20 {
				want[c.next().text()]--
			}
			for text, n := range want {
				if n != 0 {
					t.Errorf("the answer %q is missing %d times, want each answer once", text, n)
				}
			}
			eventually(t, "no long strings are on disk", func() bool { return folder.Used() == 0 })
		})
	}
}

// TestDisconnectDuringALongMessageLeavesNoFiles checks that nothing stays on disk if a client disconnects during a message
// or an answer.
func TestDisconnectDuringALongMessageLeavesNoFiles(t *testing.T) {
	folder := openSpool(t, 0)
	address, _ := serveOf(t, longTools(), folder, func(c *server.HTTPConfig) { c.BodyPatience = time.Second })
	message := toolCall("1", "sum", `{"a":"`+strings.Repeat("x", 4<<20)+`"}`)
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			c := dial(t, address)
			switch i % 3 {
			case 0: // the client disconnects during the message
				io.WriteString(c, post(address, len(message))+message[:2<<20])
				eventually(t, "a long string is on disk", func() bool { return folder.Used() > 0 })
				c.Close()
			case 1: // the client stops sending
				io.WriteString(c, post(address, len(message))+message[:66<<10])
				c.SetReadDeadline(time.Now().Add(time.Minute))
				if line, err := bufio.NewReader(c).ReadString('\n'); !strings.Contains(line, "408") {
					t.Errorf("the answer to a client that stops sending: %q, %v, want 408", line, err)
				}
			case 2: // the client disconnects during the answer
				m := toolCall("1", "large", `{"size":50000000}`)
				io.WriteString(c, post(address, len(m))+m)
				c.Read(make([]byte, 100_000))
				c.Close()
			}
		})
	}
	wg.Wait()
	eventually(t, "no long strings are on disk", func() bool { return folder.Used() == 0 })
	wantAliveHTTP(t, address)

	p := connectTo(t, server.New(longTools(), server.Config{Spool: folder, Grace: time.Millisecond}))
	io.WriteString(p.in, message[:2<<20])
	eventually(t, "a long string is on disk", func() bool { return folder.Used() > 0 })
	p.in.CloseWithError(io.ErrUnexpectedEOF)
	<-p.ended
	eventually(t, "no long strings are on disk", func() bool { return folder.Used() == 0 })

	p = connectTo(t, server.New(longTools(), server.Config{Spool: folder, Grace: time.Millisecond}))
	p.send(toolCall("1", "wait", `{"ms":60000,"a":"`+strings.Repeat("x", 1<<20)+`"}`))
	eventually(t, "a long string is on disk", func() bool { return folder.Used() > 0 })
	p.send(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`)
	eventually(t, "no long strings are on disk", func() bool { return folder.Used() == 0 })
}

// TestS04_LongBodies sends many long messages at once, and checks that messages for which the spool has no space are refused
// with 503, and that each refusal contains the id of its message.
func TestS04_LongBodies(t *testing.T) {
	const size = 8 << 20
	folder := openSpool(t, 3*size)
	address, _ := serveOf(t, longTools(), folder, func(c *server.HTTPConfig) { c.BodiesBytes = 1 << 30 })
	message := toolCall("1", "sum", `{"b":"`+strings.Repeat("x", size)+`"}`)
	var wg sync.WaitGroup
	var mu sync.Mutex
	codes := map[int]int{}
	for range 32 {
		wg.Go(func() {
			res, body := ask(t, "POST", "http://"+address+"/mcp", message)
			if res.StatusCode == http.StatusServiceUnavailable && (res.Header.Get("Retry-After") == "" || !strings.Contains(body, `"id":1`)) {
				t.Errorf("a 503 has header %v and body %s, want Retry-After and the id", res.Header, body)
			}
			mu.Lock()
			defer mu.Unlock()
			codes[res.StatusCode]++
		})
	}
	wg.Wait()
	if t.Logf("statuses: %v", codes); codes[200]+codes[503] != 32 || codes[200] == 0 {
		t.Errorf("statuses: %v, want 32 of 200 and 503, and some 200", codes)
	}
	eventually(t, "no long strings are on disk", func() bool { return folder.Used() == 0 })
	wantAliveHTTP(t, address)
}

// pattern returns the first n bytes of the file that the tool "large" returns.
func pattern(n int) []byte {
	return bytes.Repeat([]byte("0123456789 spool:\x00\xff\n"), n/20+1)[:n]
}

// oneFile is a fake daemon with one file of size bytes.
type oneFile struct {
	tools.Sandboxes
	size int64
}

func (f oneFile) ReadFile(_ context.Context, _ string, path sandbox.Path, offset, length int64) (io.ReadCloser, sandbox.File, error) {
	length = min(length, f.size) - offset
	return io.NopCloser(bytes.NewReader(pattern(int(length)))), sandbox.File{Path: string(path), Size: offset + length}, nil
}
