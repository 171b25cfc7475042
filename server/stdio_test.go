package server_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mark3labs/mcp-go/client"
	"github.com/mark3labs/mcp-go/client/transport"
	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/server"
	"github.com/dormouse-sandbox/dormouse/tools"
)

// TestInitialize checks which protocol version the server answers to each version, known or unknown, that a client asks for.
func TestInitialize(t *testing.T) {
	for asked, want := range map[string]string{
		"2024-11-05": "2024-11-05", "2025-03-26": "2025-03-26", "2025-06-18": "2025-06-18", "2025-11-25": "2025-11-25",
		"2026-07-28": "2025-11-25", // this version has no initialize; its clients call server/discover
		"1999-01-01": "2025-11-25",
	} {
		p := connect(t, server.Config{Version: "1.2.3"})
		p.send(initialize(asked), `{"jsonrpc":"2.0","method":"notifications/initialized"}`)
		a := p.next()
		info, _ := a.Result["serverInfo"].(map[string]any)
		if a.Result["protocolVersion"] != want || info["name"] != "dormouse" || info["version"] != "1.2.3" || info["title"] != "Dormouse" {
			t.Errorf("version %s was answered with %s, want version %s and the server's name", asked, a.raw, want)
		}
		if a.Result["instructions"] != tools.Instructions {
			t.Errorf("%s: the instructions differ from tools.Instructions", asked)
		}
		if got := fmt.Sprint(a.Result["capabilities"]); got != "map[tools:map[]]" {
			t.Errorf("%s: capabilities %s, want only tools", asked, got)
		}
		p.wantAlive()
	}
}

// TestResources checks that the server offers one resource template, lists no resources, and returns the content of a file
// or an error.
func TestResources(t *testing.T) {
	files := tools.Files(oneFile{size: 1000}, tools.Config{})
	broken := files
	broken.Template.Name = "broken"
	broken.Template.URITemplate = mcp.NewResourceTemplate("panic://{x}", "").URITemplate
	broken.Read = func(context.Context, string) (mcp.ResourceContents, error) { panic("secret text") }
	p := connect(t, server.Config{Resources: []tools.Resource{files, broken}})
	ask := func(method, params string) answer {
		p.send(`{"jsonrpc":"2.0","id":1,"method":"` + method + `","params":` + params + `}`)
		return p.next()
	}
	p.send(initialize("2025-11-25"))
	if got := fmt.Sprint(p.next().Result["capabilities"]); got != "map[resources:map[] tools:map[]]" {
		t.Errorf("capabilities %s, want resources and tools", got)
	}
	if a := ask("resources/templates/list", `{}`); !strings.Contains(a.raw, `"uriTemplate":"sandbox://{sandbox_id}/files/{+path}"`) {
		t.Errorf("the templates are %s, want that of files", a.raw)
	}
	if a := ask("resources/list", `{}`); fmt.Sprint(a.Result["resources"]) != "[]" {
		t.Errorf("the list of resources is %s, want it empty", a.raw)
	}
	if a := ask("resources/read", `{"uri":"sandbox://box/files/a/b.txt"}`); !strings.Contains(a.raw, `"uri":"sandbox://box/files/a/b.txt"`) || !strings.Contains(a.raw, `"mimeType":"text/plain"`) {
		t.Errorf("reading a file: %.300s, want its text", a.raw)
	}
	wantError(t, ask("resources/read", `{"uri":"sandbox://box/files/../x"}`), 1.0, -32603, `has a ".."`)
	wantError(t, ask("resources/read", `{"uri":"file:///etc/passwd"}`), 1.0, -32002, "not found")
	if a := ask("resources/read", `{"uri":"panic://x"}`); a.Error == nil || strings.Contains(a.raw, "secret") || !strings.Contains(a.raw, "number") {
		t.Errorf("the answer after a panic: %s, want an error with a number", a.raw)
	}
	if a := ask("resources/read", `{"uri":"sandbox://box/files/`+strings.Repeat("x", 100_000)+`"}`); a.Error == nil || a.Error.Code != -32600 {
		t.Errorf("the answer to a long URI: %.300s, want error -32600", a.raw)
	}
	p.wantAlive()
}

// TestClients checks that mcp-go's client can call the server, with each protocol version.
func TestClients(t *testing.T) {
	for _, version := range slices.Backward(mcp.ValidProtocolVersions) {
		t.Run(version, func(t *testing.T) {
			serverIn, in := io.Pipe()
			out, serverOut := io.Pipe()
			go server.New(fakeTools(), server.Config{}).ServeStdio(t.Context(), serverIn, serverOut)
			c := client.NewClient(transport.NewIO(out, in, io.NopCloser(strings.NewReader(""))), client.WithProtocolVersion(version))
			if err := c.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			request := mcp.InitializeRequest{}
			request.Params.ProtocolVersion = version
			request.Params.ClientInfo = mcp.Implementation{Name: "test", Version: "1"}
			if _, err := c.Initialize(t.Context(), request); err != nil {
				t.Fatal(err)
			}
			list, err := c.ListTools(t.Context(), mcp.ListToolsRequest{})
			if err != nil || len(list.Tools) != 4 {
				t.Fatalf("%d tools, %v", len(list.Tools), err)
			}
			call := mcp.CallToolRequest{}
			call.Params.Name, call.Params.Arguments = "echo", map[string]any{"a": 1}
			r, err := c.CallTool(t.Context(), call)
			if err != nil || r.Content[0].(mcp.TextContent).Text != `{"a":1}` {
				t.Errorf("%v, %v", r, err)
			}
		})
	}
}

// TestToolsListIsStable checks that tools/list always returns the same text, because clients' prompt caches depend on it.
func TestToolsListIsStable(t *testing.T) {
	p := connectTo(t, server.New(tools.New(nil, tools.Config{}), server.Config{}))
	const list = `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`
	p.send(list)
	first := p.next()
	if n := len(first.Result["tools"].([]any)); n != 10 {
		t.Fatalf("%d tools, want 10", n)
	}
	for range 5 {
		p.send(list)
		if a := p.next(); a.raw != first.raw {
			t.Fatal("tools/list differs from call to call")
		}
	}
}

// TestBadMessages checks that each invalid message is answered with the error that JSON-RPC specifies, and that the server
// keeps working.
func TestBadMessages(t *testing.T) {
	for _, c := range []struct {
		name, line string
		id         any
		code       int
		says       string
	}{
		{"not JSON", `hello`, nil, -32700, "not one valid JSON message"},
		{"a truncated message", `{"jsonrpc":"2.0","id":1,"method":"tools/list"`, nil, -32700, "not one valid JSON"},
		{"two messages on a line", `{"jsonrpc":"2.0","id":1,"method":"ping"}{"jsonrpc":"2.0","id":2,"method":"ping"}`, nil, -32700, "not one valid JSON"},
		{"invalid UTF-8", toolCall("7", "echo", "{\"a\":\"\xff\"}"), 7.0, -32700, "not valid UTF-8"},
		{"a batch", `[{"jsonrpc":"2.0","id":1,"method":"ping"}]`, nil, -32600, "batches are not supported"},
		{"a number", `5`, nil, -32600, "not a JSON-RPC request"},
		{"no method", `{"jsonrpc":"2.0","id":3}`, 3.0, -32600, "no method"},
		{"an object as id", `{"jsonrpc":"2.0","id":{},"method":"ping"}`, nil, -32600, "id must be"},
		{"a method that is a number", `{"jsonrpc":"2.0","id":4,"method":5}`, 4.0, -32600, "not a JSON-RPC request"},
		{"another version", `{"jsonrpc":"1.0","id":5,"method":"ping"}`, 5.0, -32600, "version"},
		{"unknown method", `{"jsonrpc":"2.0","id":6,"method":"tools/run"}`, 6.0, -32601, ""},
		{"resources, which the server does not offer", `{"jsonrpc":"2.0","id":6,"method":"resources/list"}`, 6.0, -32601, ""},
		{"unknown tool", toolCall(`"x"`, "no_such_tool", `{}`), "x", -32602, "no_such_tool"},
		{"params that are a list", `{"jsonrpc":"2.0","id":8,"method":"tools/call","params":[1]}`, 8.0, -32600, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := connect(t, server.Config{})
			p.send(c.line)
			wantError(t, p.next(), c.id, c.code, c.says)
			p.wantAlive()
		})
	}
}

// TestMessagesThatNeedNoAnswerGetNone checks that notifications, responses and empty lines get no answer.
func TestMessagesThatNeedNoAnswerGetNone(t *testing.T) {
	p := connect(t, server.Config{})
	p.send("", "  ", "\r", `{"jsonrpc":"2.0","id":1,"result":{}}`, `{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}`,
		`{"jsonrpc":"2.0","method":"notifications/unheard_of"}`, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":99}}`,
		`{"jsonrpc":"2.0","method":"notifications/cancelled","params":5}`)
	p.wantAlive()
}

// TestLastLineWithoutNewline checks that a last line without a newline is handled, and answered after the client has closed
// its output.
func TestLastLineWithoutNewline(t *testing.T) {
	p, g := connect(t, server.Config{}), newGate(t)
	if _, err := io.WriteString(p.in, g.call("1")); err != nil {
		t.Fatal(err)
	}
	p.in.Close()
	g.awaitCalls(1)
	g.open()
	if a := p.next(); a.text() != "waited" {
		t.Errorf("got %s", a.raw)
	}
	if err := <-p.ended; err != nil {
		t.Errorf("ServeStdio() = %v, want nil", err)
	}
}

// TestGrace checks that ServeStdio returns after Config.Grace if the client has disconnected and a call still runs.
func TestGrace(t *testing.T) {
	p := connect(t, server.Config{Grace: 50 * time.Millisecond})
	p.send(toolCall("1", "wait", `{"ms":60000}`))
	p.in.Close()
	select {
	case err := <-p.ended:
		if err != nil {
			t.Errorf("ServeStdio() = %v, want nil", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("ServeStdio() has not returned a minute after the client disconnected")
	}
}

// TestContextEnds checks that ServeStdio returns when its context ends, even if a call is in flight.
func TestContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	in, w := io.Pipe()
	defer w.Close()
	ended := make(chan error, 1)
	go func() { ended <- server.New(fakeTools(), server.Config{}).ServeStdio(ctx, in, io.Discard) }()
	io.WriteString(w, toolCall("1", "wait", `{"ms":60000}`)+"\n")
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("ServeStdio() = %v, want context.Canceled", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("ServeStdio() has not returned a minute after its context ended")
	}
}

// TestPanic checks that after a panic the model gets an error id, the log contains the details, and the server keeps
// working.
func TestPanic(t *testing.T) {
	var log bytes.Buffer
	p := connect(t, server.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	p.send(toolCall("1", "panic", `{}`))
	a := p.next()
	if a.Result["isError"] != true || strings.Contains(a.raw, "secret") || !strings.Contains(a.text(), "internal error (number ") {
		t.Errorf("got %s", a.raw)
	}
	_, rest, _ := strings.Cut(a.text(), "(number ")
	number, _, _ := strings.Cut(rest, " ")
	if !strings.Contains(log.String(), number) || !strings.Contains(log.String(), "secret text") {
		t.Errorf("the log does not have number %s and the text: %s", number, log.String())
	}
	p.wantAlive()
}

// TestParallelCalls checks that a hundred concurrent calls are all answered and don't wait for each other.
func TestParallelCalls(t *testing.T) {
	p, g := connect(t, server.Config{MaxCalls: 100}), newGate(t)
	for i := range 100 {
		p.send(g.call(fmt.Sprint(i)))
	}
	g.awaitCalls(100)
	g.open()
	seen := map[any]bool{}
	for range 100 {
		a := p.next()
		if a.text() != "waited" || seen[a.ID] {
			t.Fatalf("got %s, want one answer to each call", a.raw)
		}
		seen[a.ID] = true
	}
}

// TestCancel checks that a cancelled call frees its slot at once and gets no answer. The cancellation must be read even while
// all slots are in use.
func TestCancel(t *testing.T) {
	p := connect(t, server.Config{MaxCalls: 1})
	p.send(toolCall(`"slow"`, "wait", `{"ms":60000}`), toolCall("2", "echo", `{}`),
		`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"slow"}}`)
	// Call 2 begins after the cancelled call has ended, so an answer to the cancelled call would come first.
	if a := p.next(); a.ID != 2.0 {
		t.Errorf("got %s, want the answer to 2", a.raw)
	}
	p.wantAlive()
}

// TestRequestsBeyondMaxInFlightAreRefused checks that requests beyond maxInFlight are refused at once.
func TestRequestsBeyondMaxInFlightAreRefused(t *testing.T) {
	p := connect(t, server.Config{MaxCalls: 1, Grace: time.Millisecond})
	for i := range 1001 {
		p.send(toolCall(fmt.Sprint(i), "wait", `{"ms":60000}`))
	}
	wantError(t, p.next(), 1000.0, -32000, "more than 1000 requests")
}

// TestHugeLine checks that a line above the size limit is answered with its id, wherever the id is in the message, and that
// the connection keeps working.
func TestHugeLine(t *testing.T) {
	p := connect(t, server.Config{MaxMessageBytes: 1 << 20})
	huge := strings.Repeat(`x\",\"id\":666}`, 200_000)
	for _, c := range []struct {
		line string
		id   any
	}{
		{toolCall("5", "echo", `{"a":"`+huge+`"}`), 5.0},
		{`{"method":"tools/call","params":{"name":"echo","arguments":{"a":"` + huge + `"}},"jsonrpc":"2.0","id":6}`, 6.0},
		{`{"method":"tools/call","params":{"a":"` + huge + `"},"id":"seven","jsonrpc":"2.0"}`, "seven"},
		{`{"params":{"a":"` + huge + `"},"id":8,"method":"tools/call","jsonrpc":"2.0"}`, 8.0},
		{huge, nil},
	} {
		p.send(c.line)
		wantError(t, p.next(), c.id, -32600, "longer than 1 MiB")
		p.wantAlive()
	}
}

// TestLineLimits checks the limit of a line with lines of n−1, n and n+1 bytes.
func TestLineLimits(t *testing.T) {
	const limit = 100_000
	p := connect(t, server.Config{MaxMessageBytes: limit})
	empty := len(toolCall("1", "echo", `{"a":""}`))
	for n, good := range map[int]bool{limit - 1: true, limit: true, limit + 1: false} {
		p.send(toolCall("1", "echo", `{"a":"`+strings.Repeat("x", n-empty)+`"}`))
		if a := p.next(); (a.Error == nil) != good {
			t.Errorf("a line of %d bytes: accepted = %v, want %v", n, a.Error == nil, good)
		}
	}
}

// TestProgress checks that progress is reported before the result, and only if the client asked for it.
func TestProgress(t *testing.T) {
	p := connect(t, server.Config{})
	for range 50 {
		p.send(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"report","_meta":{"progressToken":"tok"}}}`)
		if a := p.next(); a.Method != "notifications/progress" || a.Params["progressToken"] != "tok" || a.Params["progress"] != 1.0 || a.Params["message"] != "half way" {
			t.Fatalf("got %s", a.raw)
		}
		if a := p.next(); a.text() != "reported" {
			t.Fatalf("got %s", a.raw)
		}
	}
	p.send(toolCall("2", "report", `{}`))
	if a := p.next(); a.text() != "reported" {
		t.Errorf("got %s", a.raw)
	}
}

// TestBrokenOutput checks that ServeStdio returns an error if it cannot write to the client.
func TestBrokenOutput(t *testing.T) {
	in, w := io.Pipe()
	defer w.Close()
	out, broken := io.Pipe()
	out.Close()
	ended := make(chan error, 1)
	go func() { ended <- server.New(fakeTools(), server.Config{}).ServeStdio(t.Context(), in, broken) }()
	io.WriteString(w, toolCall("1", "echo", `{}`)+"\n")
	select {
	case err := <-ended:
		if !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("ServeStdio() = %v, want io.ErrClosedPipe", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("ServeStdio() has not returned a minute after its output was closed")
	}
}
