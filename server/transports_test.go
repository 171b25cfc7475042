package server_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mark3labs/mcp-go/client"
	"github.com/mark3labs/mcp-go/client/transport"
	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/server"
)

// connectHTTP returns mcp-go's client, initialized, on the streamable HTTP or the SSE transport.
func connectHTTP(t *testing.T, kind, version, address string) *client.Client {
	t.Helper()
	header := map[string]string{"Authorization": "Bearer " + secret}
	var wire transport.Interface
	var err error
	if kind == "sse" {
		wire, err = transport.NewSSE("http://"+address+"/sse", transport.WithHeaders(header))
	} else {
		wire, err = transport.NewStreamableHTTP("http://"+address+"/mcp", transport.WithHTTPHeaders(header))
	}
	if err != nil {
		t.Fatal(err)
	}
	c := client.NewClient(wire, client.WithProtocolVersion(version))
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	request := mcp.InitializeRequest{}
	request.Params.ProtocolVersion = version
	request.Params.ClientInfo = mcp.Implementation{Name: "test", Version: "1"}
	if _, err := c.Initialize(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestHTTPClients checks that each of several concurrent clients (mcp-go's, with each protocol version) gets the answers to its
// own calls, although all clients use the same ids.
func TestHTTPClients(t *testing.T) {
	t.Parallel()
	address, _ := serve(t, nil)
	for _, kind := range []string{"streamable", "sse"} {
		for _, version := range slices.Backward(mcp.ValidProtocolVersions) {
			t.Run(kind+" "+version, func(t *testing.T) {
				t.Parallel()
				c := connectHTTP(t, kind, version, address)
				list, err := c.ListTools(t.Context(), mcp.ListToolsRequest{})
				if err != nil || len(list.Tools) != 4 {
					t.Fatalf("list the tools: %v, %v, want 4 tools", list, err)
				}
				var wg sync.WaitGroup
				for i := range 20 {
					wg.Go(func() {
						call := mcp.CallToolRequest{}
						call.Params.Name, call.Params.Arguments = "echo", map[string]any{"a": fmt.Sprint(version, i)}
						want := fmt.Sprintf(`{"a":"%s%d"}`, version, i)
						if r, err := c.CallTool(t.Context(), call); err != nil || r.Content[0].(mcp.TextContent).Text != want {
							t.Errorf("%v, %v, want %s", r, err, want)
						}
					})
				}
				wg.Wait()
				call := mcp.CallToolRequest{}
				call.Params.Name = "panic"
				if r, err := c.CallTool(t.Context(), call); err != nil || !r.IsError || strings.Contains(r.Content[0].(mcp.TextContent).Text, "secret") {
					t.Errorf("the result after a panic: %v, %v, want an error without the text of the panic", r, err)
				}
			})
		}
	}
}

// TestHTTPProgress checks that progress is reported before the result on both HTTP transports, streamable HTTP and SSE.
func TestHTTPProgress(t *testing.T) {
	address, _ := serve(t, nil)
	const call = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"report","_meta":{"progressToken":"tok"}}}`
	for range 30 {
		_, body := ask(t, "POST", "http://"+address+"/mcp", call)
		progress, result := strings.Index(body, "half way"), strings.Index(body, "reported")
		if progress < 0 || result < progress {
			t.Fatalf("got %s", body)
		}
	}
	s := openSSE(t, address)
	for range 30 {
		s.post(call)
		if a := s.next(); a.Method != "notifications/progress" || a.Params["message"] != "half way" {
			t.Fatalf("got %s", a.raw)
		}
		if a := s.next(); a.text() != "reported" {
			t.Fatalf("got %s", a.raw)
		}
	}
}

// sseClient is a client on the SSE transport that posts raw messages.
type sseClient struct {
	t        *testing.T
	endpoint string
	events   chan string
	cancel   context.CancelFunc
}

func openSSE(t *testing.T, address string) *sseClient {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	r, _ := http.NewRequestWithContext(ctx, "GET", "http://"+address+"/sse", nil)
	setHeader(r, nil)
	res, err := http.DefaultClient.Do(r)
	if err != nil || res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "text/event-stream" || res.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Fatalf("open a stream: %v, %v", res, err)
	}
	c := &sseClient{t: t, events: make(chan string, 1000), cancel: cancel}
	go func() {
		defer close(c.events)
		defer res.Body.Close()
		lines := bufio.NewScanner(res.Body)
		lines.Buffer(nil, 64<<20)
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				c.events <- data
			}
		}
	}()
	c.endpoint = "http://" + address + <-c.events
	return c
}

func (c *sseClient) post(message string) {
	c.t.Helper()
	if res, body := ask(c.t, "POST", c.endpoint, message); res.StatusCode != http.StatusAccepted {
		c.t.Fatalf("post to the stream: %d %s, want 202", res.StatusCode, body)
	}
}

func (c *sseClient) next() (a answer) {
	c.t.Helper()
	select {
	case a.raw = <-c.events:
		if err := json.Unmarshal([]byte(a.raw), &a); err != nil {
			c.t.Fatalf("event %q: %v", a.raw, err)
		}
	case <-time.After(time.Minute):
		c.t.Fatal("no event on the stream within a minute")
	}
	return a
}

// TestSSECancel checks that a cancelled call gets no answer, and that the stream keeps working.
func TestSSECancel(t *testing.T) {
	address, _ := serve(t, nil)
	c := openSSE(t, address)
	c.post(toolCall(`"slow"`, "wait", `{"ms":60000}`))
	c.post(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"slow"}}`)
	c.post(toolCall("2", "echo", `{}`))
	if a := c.next(); a.ID != 2.0 {
		t.Errorf("got %s", a.raw)
	}
}

// TestHTTPCancel checks that a client cannot cancel another client's call that has the same id.
func TestHTTPCancel(t *testing.T) {
	address, _ := serve(t, nil)
	g, done := newGate(t), make(chan string, 1)
	go func() {
		_, body := ask(t, "POST", "http://"+address+"/mcp", g.call("1"))
		done <- body
	}()
	g.awaitCalls(1)
	if res, _ := ask(t, "POST", "http://"+address+"/mcp", `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`); res.StatusCode != http.StatusAccepted {
		t.Errorf("the cancellation: %d, want 202", res.StatusCode)
	}
	g.open()
	if body := <-done; !strings.Contains(body, "waited") {
		t.Errorf("the other client's call: %s, want its answer", body)
	}
}

// TestBadRequests checks that, on both transports, each invalid request is answered as the protocol specifies, and that the
// server keeps working.
func TestBadRequests(t *testing.T) {
	address, _ := serve(t, nil)
	ping := `{"jsonrpc":"2.0","id":1,"method":"ping"}`
	stream := openSSE(t, address)
	for _, c := range []struct {
		name, body, header string
		status             int
		says               string
	}{
		{"truncated JSON", `{"jsonrpc":"2.0","id":1,`, "", 400, "-32700"},
		{"text that is not JSON", `hello`, "", 400, "-32700"},
		{"an empty body", ``, "", 400, "-32700"},
		{"two messages", ping + ping, "", 400, "-32700"},
		{"a batch", "[" + ping + "]", "", 400, "batches are not supported"},
		{"invalid UTF-8", toolCall("7", "echo", "{\"a\":\"\xff\"}"), "", 400, "not valid UTF-8"},
		{"an object as id", `{"jsonrpc":"2.0","id":{},"method":"ping"}`, "", 400, "id must be"},
		{"no method", `{"jsonrpc":"2.0","id":3}`, "", 400, "no method"},
		{"deep nesting", strings.Repeat("[", 100000), "", 400, "-32700"},
		{"text/plain, as any web page can post", ping, "Content-Type: text/plain", 415, ""},
		{"a content type of a form", ping, "Content-Type: application/x-www-form-urlencoded", 415, ""},
		{"no content type", ping, "Content-Type: ", 415, ""},
		{"another charset", ping, "Content-Type: application/json; charset=utf-16", 415, ""},
		{"an invalid content type", ping, "Content-Type: application/json; =", 415, ""},
		{"gzip", ping, "Content-Encoding: gzip", 415, "compressed"},
		{"a content encoding that means none", ping, "Content-Encoding: identity", 415, "compressed"},
		{"an unknown session", ping, "Mcp-Session-Id: mcp-session-of-somebody", 200, ""},
		{"the charset UTF-8", ping, "Content-Type: application/json; charset=UTF-8", 200, ""},
		{"a notification", `{"jsonrpc":"2.0","method":"notifications/initialized"}`, "", 202, ""},
		{"a response without a request", `{"jsonrpc":"2.0","id":1,"result":{}}`, "", 202, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			header := []string{}
			if c.header != "" {
				header = append(header, c.header)
			}
			res, body := ask(t, "POST", "http://"+address+"/mcp", c.body, header...)
			if res.StatusCode != c.status || !strings.Contains(body, c.says) {
				t.Errorf("/mcp: %d %s, want %d and %q", res.StatusCode, body, c.status, c.says)
			}
			want := c.status
			if want == http.StatusOK {
				want = http.StatusAccepted // on SSE, the error is sent on the stream and not as the answer to the POST
			}
			if res, body := ask(t, "POST", stream.endpoint, c.body, header...); res.StatusCode != want || !strings.Contains(body, c.says) {
				t.Errorf("/message: %d %s, want %d and %q", res.StatusCode, body, want, c.says)
			}
		})
	}
	wantAliveHTTP(t, address)
}

// TestS06_Panic checks that the answer after a panic, in a tool or in the REST API, does not contain the text of the panic.
func TestS06_Panic(t *testing.T) {
	h := newHTTP(t, "127.0.0.1:8765", func(c *server.HTTPConfig) {
		c.API = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("secret text") })
	})
	if w := do(h, "GET", "/v1/info", ""); w.Code != http.StatusInternalServerError || strings.Contains(w.Body.String(), "secret") || !strings.Contains(w.Body.String(), "number") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := do(h, "POST", "/mcp", toolCall("1", "panic", `{}`)); strings.Contains(w.Body.String(), "secret") || !strings.Contains(w.Body.String(), `"isError":true`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestS08_Framing checks that no output of code in a sandbox can end an event or begin a new one.
func TestS08_Framing(t *testing.T) {
	address, _ := serve(t, nil)
	nasty := "\n\nevent: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\r\n\r\n\x1b[2J\u2028\u202e\x00"
	arguments, _ := json.Marshal(map[string]string{"a": nasty})
	want := strings.ReplaceAll(string(arguments), "\u2028", `\u2028`)
	s := openSSE(t, address)
	s.post(toolCall("1", "echo", string(arguments)))
	if a := s.next(); a.text() != want {
		t.Errorf("over SSE: %q, want %q", a.text(), want)
	}
	_, body := ask(t, "POST", "http://"+address+"/mcp", toolCall("1", "echo", string(arguments)))
	var a answer
	if err := json.Unmarshal([]byte(body), &a); err != nil || a.text() != want {
		t.Errorf("over HTTP: %v, %q", err, a.text())
	}
}

// TestHTTP2 checks calls and the limit for slow bodies over HTTP/2, which TLS clients use.
func TestHTTP2(t *testing.T) {
	t.Parallel()
	h := newHTTP(t, "127.0.0.1:8765", func(c *server.HTTPConfig) { c.BodyPatience = time.Second })
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	post := func(body io.Reader) (*http.Response, string) {
		r, _ := http.NewRequest("POST", s.URL+"/mcp", body)
		setHeader(r, nil)
		res, err := s.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		return res, string(b)
	}
	for range 2 {
		if res, body := post(strings.NewReader(toolCall("1", "wait", `{"ms":1200}`))); res.ProtoMajor != 2 || !strings.Contains(body, "waited") {
			t.Errorf("got %s %d %s, want the answer over HTTP/2", res.Proto, res.StatusCode, body)
		}
	}
	never, w := io.Pipe()
	defer w.Close()
	if res, _ := post(never); res.StatusCode != http.StatusRequestTimeout {
		t.Errorf("a body that does not arrive: %d, want 408", res.StatusCode)
	}
}

// TestListen checks that a client of protocol version 2026-07-28 that subscribes to changes gets an acknowledgement and then,
// because nothing ever changes, the result, on every transport.
func TestListen(t *testing.T) {
	address, _ := serve(t, nil)
	const listen = `{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true},` +
		`"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}}}`
	for range 20 {
		_, body := ask(t, "POST", "http://"+address+"/mcp", listen, "Mcp-Protocol-Version: 2026-07-28", "Mcp-Method: subscriptions/listen")
		if acknowledged, done := strings.Index(body, "acknowledged"), strings.Index(body, "complete"); acknowledged < 0 || done < acknowledged {
			t.Fatalf("over HTTP: got %q, want the acknowledgement and then the result", body)
		}
	}
	stdio, sse := connect(t, server.Config{}), openSSE(t, address)
	for range 20 {
		stdio.send(listen)
		sse.post(listen)
		for transport, next := range map[string]func() answer{"stdio": stdio.next, "SSE": sse.next} {
			if a, b := next(), next(); !strings.Contains(a.raw, "acknowledged") || b.ID != 1.0 {
				t.Fatalf("over %s: got %s and %s, want the acknowledgement and then the result", transport, a.raw, b.raw)
			}
		}
	}
}
