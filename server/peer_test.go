package server_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/server"
	"github.com/dormouse-sandbox/dormouse/tools"
)

// fakeTools returns tools that answer, wait, panic and report progress, to test the transports.
func fakeTools() []tools.Tool {
	definition := func(name string) mcp.Tool {
		return mcp.Tool{Name: name, RawInputSchema: json.RawMessage(`{"type":"object"}`)}
	}
	text := func(s string) *mcp.CallToolResult {
		return &mcp.CallToolResult{Content: []mcp.Content{mcp.TextContent{Type: "text", Text: s}}}
	}
	return []tools.Tool{
		{Definition: definition("echo"), Call: func(_ context.Context, a any) *mcp.CallToolResult {
			b, _ := json.Marshal(a)
			return text(string(b))
		}},
		{Definition: definition("panic"), Call: func(context.Context, any) *mcp.CallToolResult { panic("secret text") }},
		{Definition: definition("wait"), Call: func(ctx context.Context, a any) *mcp.CallToolResult {
			arguments, _ := a.(map[string]any)
			if g, ok := gates.Load(arguments["gate"]); ok {
				return text(g.(*gate).wait(ctx))
			}
			ms, _ := arguments["ms"].(float64)
			select {
			case <-time.After(time.Duration(ms) * time.Millisecond):
				return text("waited")
			case <-ctx.Done():
				return text("cancelled")
			}
		}},
		{Definition: definition("report"), Call: func(ctx context.Context, _ any) *mcp.CallToolResult {
			tools.Report(ctx, time.Second, "half way")
			return text("reported")
		}},
	}
}

// gate makes calls of the tool "wait" last until the test opens the gate.
type gate struct {
	t       *testing.T
	name    string
	entered chan struct{} // receives a value for each call that has begun
	opened  chan struct{}
	open    func()
}

var gates sync.Map // the gates of all tests, by name

// newGate returns a closed gate, which is opened at the end of the test at the latest.
func newGate(t *testing.T) *gate {
	g := &gate{t: t, name: rand.Text(), entered: make(chan struct{}, 1000), opened: make(chan struct{})}
	g.open = sync.OnceFunc(func() { close(g.opened) })
	gates.Store(g.name, g)
	t.Cleanup(g.open)
	return g
}

// call returns a tool call that lasts until the gate is opened.
func (g *gate) call(id string) string { return toolCall(id, "wait", g.arguments()) }

func (g *gate) arguments() string { return `{"gate":"` + g.name + `"}` }

// awaitCalls waits until n more calls have begun.
func (g *gate) awaitCalls(n int) {
	g.t.Helper()
	for i := range n {
		select {
		case <-g.entered:
		case <-time.After(time.Minute):
			g.t.Fatalf("%d of %d calls have begun after a minute", i, n)
		}
	}
}

func (g *gate) wait(ctx context.Context) string {
	g.entered <- struct{}{}
	select {
	case <-g.opened:
		return "waited"
	case <-ctx.Done():
		return "cancelled"
	}
}

// peer is a stdio client that writes raw lines.
type peer struct {
	t     *testing.T
	in    *io.PipeWriter
	lines chan string
	ended chan error
}

func connect(t *testing.T, c server.Config) *peer {
	t.Helper()
	if c.Spool == nil {
		c.Spool = openSpool(t, 0)
	}
	return connectTo(t, server.New(fakeTools(), c))
}

func connectTo(t *testing.T, s *server.Server) *peer {
	t.Helper()
	serverIn, in := io.Pipe()
	out, serverOut := io.Pipe()
	p := &peer{t: t, in: in, lines: make(chan string, 1000), ended: make(chan error, 1)}
	go func() {
		err := s.ServeStdio(context.Background(), serverIn, serverOut)
		serverOut.Close()
		p.ended <- err
	}()
	go func() {
		defer close(p.lines)
		r := bufio.NewReader(out)
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			p.lines <- line
		}
	}()
	t.Cleanup(func() { in.Close(); out.Close() })
	return p
}

func (p *peer) send(lines ...string) {
	p.t.Helper()
	for _, line := range lines {
		if _, err := io.WriteString(p.in, line+"\n"); err != nil {
			p.t.Fatalf("write: %v", err)
		}
	}
}

// answer is a message from the server: a response to a request, or a notification.
type answer struct {
	ID     any            `json:"id"`
	Method string         `json:"method"`
	Params map[string]any `json:"params"`
	Result map[string]any `json:"result"`
	Error  *struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
	raw string
}

// text returns the text in the result of a tool call.
func (a answer) text() string {
	content, _ := a.Result["content"].([]any)
	if len(content) == 0 {
		return ""
	}
	s, _ := content[0].(map[string]any)["text"].(string)
	return s
}

func (p *peer) next() answer {
	p.t.Helper()
	a, err := p.tryNext(time.Minute) // long enough for a slow machine with the race detector
	if err != nil {
		p.t.Fatal(err)
	}
	return a
}

func (p *peer) tryNext(wait time.Duration) (answer, error) {
	select {
	case line, ok := <-p.lines:
		if !ok {
			return answer{}, io.EOF
		}
		a := answer{raw: line}
		return a, json.Unmarshal([]byte(line), &a)
	case <-time.After(wait):
		return answer{}, errors.New("no answer in time")
	}
}

// wantAlive fails the test unless the server still answers a valid call.
func (p *peer) wantAlive() {
	p.t.Helper()
	p.send(toolCall(`"alive"`, "echo", `{}`))
	if a := p.next(); a.ID != "alive" || a.text() != "{}" {
		p.t.Fatalf("the answer to a valid call is %s, want that the server still works", a.raw)
	}
}

func toolCall(id, name, arguments string) string {
	return `{"jsonrpc":"2.0","id":` + id + `,"method":"tools/call","params":{"name":"` + name + `","arguments":` + arguments + `}}`
}

func initialize(version string) string {
	return `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"` + version + `","capabilities":{},"clientInfo":{"name":"test","version":"1"}}}`
}

func wantError(t *testing.T, a answer, id any, code int, says string) {
	t.Helper()
	if a.Error == nil || a.Error.Code != code || a.ID != id || !strings.Contains(a.Error.Message, says) {
		t.Errorf("got %swant an error %d for id %v that says %q", a.raw, code, id, says)
	}
}
