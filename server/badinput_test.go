package server_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/server"
	"github.com/dormouse-sandbox/dormouse/tools"
)

// runOtherClient calls a tool in a loop until the test ends. It fails the test if a call is not answered correctly. Tests use
// it to check that bad input from one client does not affect another client.
func runOtherClient(t *testing.T, address string) {
	t.Helper()
	stop, done := make(chan struct{}), make(chan struct{})
	stream := openSSE(t, address)
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			r, _ := http.NewRequest("POST", "http://"+address+"/mcp", strings.NewReader(toolCall("1", "wait", `{"ms":5}`)))
			setHeader(r, nil)
			res, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Errorf("a call of the other client: %v", err)
				return
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || res.StatusCode != http.StatusOK || !strings.Contains(string(body), "waited") {
				t.Errorf("a call of the other client: %d %s, %v, want an answer", res.StatusCode, body, err)
				return
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-done
		stream.post(toolCall("2", "echo", `{}`))
		if a := stream.next(); a.ID != 2.0 {
			t.Errorf("the stream of the other client: got %s, want the answer to 2", a.raw)
		}
		wantAliveHTTP(t, address)
	})
}

// serveTools serves the ten tools without a daemon.
func serveTools(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	token, err := server.NewToken("default", secret)
	if err != nil {
		t.Fatal(err)
	}
	h, err := server.NewHTTP(server.New(tools.New(nil, tools.Config{}), server.Config{}), server.HTTPConfig{Address: l.Addr().String(), Tokens: []server.Token{token}, Sandboxes: fakeDaemon{}})
	if err != nil {
		t.Fatal(err)
	}
	go h.Serve(t.Context(), l)
	return l.Addr().String()
}

// TestBadShapes checks the answers to values of the wrong JSON type: a protocol error if the field belongs to the protocol,
// and an explanation for the model if it is an argument of a tool.
func TestBadShapes(t *testing.T) {
	address := serveTools(t)
	for _, c := range []struct {
		name, message string
		status        int
		says          string
	}{
		{"a number for a tool's list", toolCall("1", "write_files", `{"sandbox_id":"x","files":5}`), 200, "files must be a list of files"},
		{"a number in a tool's list", toolCall("1", "write_files", `{"sandbox_id":"x","files":[5]}`), 200, `"isError":true`},
		{"a list for a tool's text", toolCall("1", "execute_code", `{"code":["1"]}`), 200, "code must be a string"},
		{"a number for the arguments", toolCall("1", "execute_code", `5`), 200, "arguments are"},
		{"a list for the arguments", toolCall("1", "execute_code", `[1]`), 200, "the arguments are a list of 1"},
		{"null for the arguments", toolCall("1", "execute_code", `null`), 200, "code"},
		{"a number for the params", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":5}`, 200, "-32600"},
		{"a number for a tool's name", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":5}}`, 200, `"error"`},
		{"a list for a cursor", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":[]}}`, 200, `"error"`},
		{"a number for a protocol version", `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":5}}`, 200, `"error"`},
		{"a huge number as id", `{"jsonrpc":"2.0","id":1e999,"method":"ping"}`, 200, "-32700"},
		{"a name twice", `{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}`, 200, `"id":2`},
	} {
		t.Run(c.name, func(t *testing.T) {
			res, body := ask(t, "POST", "http://"+address+"/mcp", c.message)
			if res.StatusCode != c.status || !strings.Contains(body, c.says) || strings.Contains(body, "panic") {
				t.Errorf("got %d %s, want %d and %s", res.StatusCode, body, c.status, c.says)
			}
			if !json.Valid([]byte(body)) {
				t.Errorf("the answer is not JSON: %s", body)
			}
		})
	}
}

// TestBrokenConnections checks that input that is not HTTP, or is incomplete, ends only the connection that sent it.
func TestBrokenConnections(t *testing.T) {
	address, _ := serve(t, nil)
	runOtherClient(t, address)
	head := func(line ...string) string {
		return "POST /mcp HTTP/1.1\r\nHost: " + address + "\r\nAuthorization: Bearer " + secret + "\r\nContent-Type: application/json\r\n" + strings.Join(line, "\r\n") + "\r\n\r\n"
	}
	ping := `{"jsonrpc":"2.0","id":1,"method":"ping"}`
	length := fmt.Sprintf("Content-Length: %d", len(ping))
	for _, c := range []struct {
		name, sent, says string // says is the beginning of the answer; empty: the connection is closed without an answer
		disconnects      bool   // the client closes its side right after sending
	}{
		{"text that is not HTTP", "hello\r\n\r\n", "HTTP/1.1 400", false},
		{"TLS to a plain port", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "HTTP/1.1 400", true},
		{"an unknown method", strings.Replace(head(length), "POST", "EXEC", 1) + ping, "HTTP/1.1 405", false},
		{"a body that ends before its length", head("Content-Length: 1000") + ping, "HTTP/1.1 400", true},
		{"a chunk that ends before its length", head("Transfer-Encoding: chunked") + "ff\r\n" + ping, "HTTP/1.1 400", true},
		{"a chunk without a length", head("Transfer-Encoding: chunked") + "zz\r\n" + ping, "HTTP/1.1 400", false},
		{"two lengths", head(length, "Content-Length: 3") + ping, "HTTP/1.1 400", false},
		{"a length and chunks, where proxies differ", head(length, "Transfer-Encoding: chunked") + "0\r\n\r\n", "HTTP/1.1 400", false},
		{"a length below zero", head("Content-Length: -1"), "HTTP/1.1 400", false},
		{"no host", strings.Replace(head(length), "Host: "+address+"\r\n", "", 1) + ping, "HTTP/1.1 400", false},
		{"two hosts", head(length, "Host: localhost") + ping, "HTTP/1.1 400", false},
		{"the URL of another server, as to a proxy", strings.Replace(head(length), "POST /mcp", "POST http://evil.com/mcp", 1) + ping, "HTTP/1.1 403", false},
		{"invalid UTF-8 in a header", head(length, "Mcp-Session-Id: \xff\xfe") + ping, "HTTP/1.1 200", false},
		{"invalid UTF-8 in the path", strings.Replace(head(length), "/mcp", "/\xff", 1) + ping, "HTTP/1.1 404", false},
		{"a line end in a header", head(length, "X: a\rb") + ping, "HTTP/1.1 400", false},
		{"a request after a request", head(length) + ping + head(length) + ping, "HTTP/1.1 200", false},
		{"half of a head", "POST /mcp HTTP/1.1\r\nHost: ", "", true},
		{"nothing", "", "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := dial(t, address)
			io.WriteString(conn, c.sent)
			if c.disconnects {
				conn.(*net.TCPConn).CloseWrite()
			}
			conn.SetReadDeadline(time.Now().Add(time.Minute))
			line, _ := bufio.NewReader(conn).ReadString('\n')
			if !strings.HasPrefix(line, c.says) || c.says == "" && strings.HasPrefix(line, "HTTP/1.1 2") {
				t.Errorf("the answer begins with %q, want %q", line, c.says)
			}
		})
	}
}

// TestForeignStream checks that a client with another token cannot post to a stream.
func TestForeignStream(t *testing.T) {
	other, err := server.NewToken("other", secret+"-other")
	if err != nil {
		t.Fatal(err)
	}
	address, _ := serve(t, func(c *server.HTTPConfig) { c.Tokens = append(c.Tokens, other) })
	stream := openSSE(t, address)
	for name, header := range map[string]string{"another token": "Authorization: Bearer " + secret + "-other", "no token": "Authorization: "} {
		res, body := ask(t, "POST", stream.endpoint, toolCall("1", "echo", `{"a":"foreign"}`), header)
		if res.StatusCode != http.StatusNotFound && res.StatusCode != http.StatusUnauthorized {
			t.Errorf("a post with %s: %d %s, want 401 or 404", name, res.StatusCode, body)
		}
	}
	stream.post(toolCall("2", "echo", `{}`))
	if a := stream.next(); a.ID != 2.0 {
		t.Errorf("got %s, want the answer to this client's call", a.raw)
	}
}

// TestSameIDs checks that two requests with the same id on one stream get two answers, and that over HTTP each of several
// clients with the same id gets its own answer.
func TestSameIDs(t *testing.T) {
	address, _ := serve(t, nil)
	t.Cleanup(http.DefaultClient.CloseIdleConnections) // unused connections would delay the shutdown
	s, g := openSSE(t, address), newGate(t)
	s.post(g.call("1"))
	g.awaitCalls(1)
	s.post(toolCall("1", "echo", `{"a":"second"}`))
	if a := s.next(); a.ID != 1.0 || a.text() != `{"a":"second"}` {
		t.Errorf("got %s, want the answer to the second call", a.raw)
	}
	g.open()
	if a := s.next(); a.ID != 1.0 || a.text() != "waited" {
		t.Errorf("got %s, want the answer to the first call", a.raw)
	}
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			want := fmt.Sprintf(`{"client":%d}`, i)
			var a answer
			_, body := ask(t, "POST", "http://"+address+"/mcp", toolCall(`"same"`, "echo", want))
			if err := json.Unmarshal([]byte(body), &a); err != nil || a.ID != "same" || a.text() != want {
				t.Errorf("got %s, want %s", body, want)
			}
		})
	}
	wg.Wait()
}

// TestManyConnections checks that a thousand connections, most of which send nothing or an incomplete request, do not affect
// the connections of other clients.
func TestManyConnections(t *testing.T) {
	address, _ := serve(t, nil)
	t.Cleanup(http.DefaultClient.CloseIdleConnections) // unused connections would delay the shutdown
	runOtherClient(t, address)
	var conns []net.Conn
	for i := range 1000 {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		conns = append(conns, c)
		switch i % 3 {
		case 1:
			io.WriteString(c, "POST /mcp HTTP/1.1\r\n")
		case 2:
			message := toolCall("1", "echo", `{}`)
			io.WriteString(c, post(address, len(message))+message)
		}
	}
	for i := 2; i < len(conns); i += 3 {
		if got := status(t, conns[i]); !strings.Contains(got, "200") {
			t.Fatalf("connection %d: %q", i, got)
		}
	}
	wantAliveHTTP(t, address)
	for _, c := range conns {
		c.Close()
	}
}

// TestManyStreams checks that streams beyond the limit are refused with 503, and that a closed stream frees its slot.
func TestManyStreams(t *testing.T) {
	address, _ := serve(t, func(c *server.HTTPConfig) { c.MaxStreams = 20 })
	var streams []*sseClient
	for range 20 {
		streams = append(streams, openSSE(t, address))
	}
	if res, body := ask(t, "GET", "http://"+address+"/sse", ""); res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
		t.Errorf("one stream above the limit: %d %s, want 503 with Retry-After", res.StatusCode, body)
	}
	streams[0].cancel()
	eventually(t, "19 streams are counted", func() bool {
		_, text := ask(t, "GET", "http://"+address+"/metrics", "")
		return strings.Contains(text, `in_flight{kind="stream"} 19`)
	})
	openSSE(t, address)
	for _, s := range streams[1:] {
		s.post(toolCall("1", "echo", `{}`))
		if a := s.next(); a.ID != 1.0 {
			t.Errorf("got %s, want the answer to this client's call", a.raw)
		}
	}
}

// TestDisconnectDuringALongAnswer checks that a client that disconnects during a long answer does not affect other clients.
func TestDisconnectDuringALongAnswer(t *testing.T) {
	address, _ := serve(t, nil)
	runOtherClient(t, address)
	message := toolCall("1", "echo", `{"a":"`+strings.Repeat("x", 4<<20)+`"}`)
	for range 5 {
		c := dial(t, address)
		io.WriteString(c, post(address, len(message))+message)
		if got := status(t, c); !strings.Contains(got, "200") {
			t.Errorf("got %q, want 200", got)
		}
		c.Close()
	}
	eventually(t, "no bytes of bodies are counted", func() bool {
		_, text := ask(t, "GET", "http://"+address+"/metrics", "")
		return strings.Contains(text, "dormouse_http_body_bytes 0")
	})
}

// TestLargeIDs checks that an id that a float64 cannot represent, such as a time in nanoseconds, is returned unchanged.
func TestLargeIDs(t *testing.T) {
	address, _ := serve(t, nil)
	t.Cleanup(http.DefaultClient.CloseIdleConnections) // unused connections would delay the shutdown
	stdio, sse := connect(t, server.Config{}), openSSE(t, address)
	for _, id := range []string{"9007199254740993", "1764220000123456789", "9223372036854775807", "-9223372036854775808", "123456789012345678901234567890", "0.12345678901234567890", `"9007199254740993"`} {
		progress := strings.Replace(toolCall(id, "report", `{}`), `"params":{`, `"params":{"_meta":{"progressToken":"p"},`, 1)
		for _, message := range []string{toolCall(id, "echo", `{"id":9007199254740993}`), toolCall(id, "panic", `{}`), toolCall(id, "none", `{}`), `{"method":"nope","id":` + id + `,"jsonrpc":"2.0"}`, progress} {
			byTransport := map[string]string{}
			stdio.send(message)
			sse.post(message)
			_, byTransport["/mcp"] = ask(t, "POST", "http://"+address+"/mcp", message)
			for byTransport["stdio"] == "" {
				if a := stdio.next(); a.Method == "" {
					byTransport["stdio"] = a.raw
				}
			}
			for byTransport["/sse"] == "" {
				if a := sse.next(); a.Method == "" {
					byTransport["/sse"] = a.raw
				}
			}
			for transport, answer := range byTransport {
				if !strings.Contains(answer, `{"jsonrpc":"2.0","id":`+id+`,`) {
					t.Errorf("the answer of %s to %s is %s, want the same id", transport, message, answer)
				}
			}
		}
	}
}
