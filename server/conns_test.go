package server_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/server"
	"github.com/dormouse-sandbox/dormouse/tools"
)

const aliceSecret = "dormouse_alices-token-of-the-tests-0123456789"

func withAlice(t *testing.T, change func(*server.HTTPConfig)) func(*server.HTTPConfig) {
	t.Helper()
	token, err := server.NewToken("alice", aliceSecret)
	if err != nil {
		t.Fatal(err)
	}
	return func(c *server.HTTPConfig) {
		c.Tokens = append(c.Tokens, token)
		if change != nil {
			change(c)
		}
	}
}

// wantOperatorAnswered sends requests with the operator's token, each on a new connection. It fails the test unless all are
// answered with 200.
func wantOperatorAnswered(t *testing.T, address string) {
	t.Helper()
	for _, path := range []string{"/v1/info", "/healthz", "/readyz", "/metrics"} {
		transport := &http.Transport{DisableKeepAlives: true}
		r, err := http.NewRequest(http.MethodGet, "http://"+address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		setHeader(r, nil)
		res, err := (&http.Client{Transport: transport, Timeout: time.Minute}).Do(r)
		if err != nil {
			t.Errorf("the operator's GET %s: %v", path, err)
			continue
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Errorf("the operator's GET %s: %d, want 200", path, res.StatusCode)
		}
	}
}

func TestConnectionsWithoutATokenDoNotLockOutTheOperator(t *testing.T) {
	address, _ := serve(t, nil)
	kept := dial(t, address) // the operator's connection, which must stay open during the flood
	request := fmt.Sprintf("GET /v1/info HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", address, secret)
	answers := bufio.NewReader(kept)
	get := func() {
		t.Helper()
		io.WriteString(kept, request)
		kept.SetReadDeadline(time.Now().Add(time.Minute))
		res, err := http.ReadResponse(answers, nil)
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("the operator's connection: %v, %v", res, err)
		}
		io.Copy(io.Discard, res.Body)
	}
	get()
	const flood = 4150 // the server allows 4,096 connections
	for i := range flood {
		dial(t, address)
		if i%1000 == 999 {
			wantOperatorAnswered(t, address)
		}
	}
	wantOperatorAnswered(t, address)
	get()
}

func TestAnonymousConnectionsAreClosedAfterTheAnswer(t *testing.T) {
	address, _ := serve(t, nil)
	for name, c := range map[string]struct {
		request string
		status  int
		closed  bool
	}{
		"health":         {"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 200, true},
		"readiness":      {"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n", 200, true},
		"no token":       {"GET /v1/info HTTP/1.1\r\nHost: localhost\r\n\r\n", 401, true},
		"another host":   {"GET /healthz HTTP/1.1\r\nHost: example.com\r\n\r\n", 403, true},
		"a valid token":  {"GET /v1/info HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + secret + "\r\n\r\n", 200, false},
		"another origin": {"GET /healthz HTTP/1.1\r\nHost: localhost\r\nOrigin: https://example.com\r\n\r\n", 403, true},
	} {
		t.Run(name, func(t *testing.T) {
			conn := dial(t, address)
			io.WriteString(conn, c.request)
			conn.SetReadDeadline(time.Now().Add(time.Minute))
			r := bufio.NewReader(conn)
			res, err := http.ReadResponse(r, nil)
			if err != nil || res.StatusCode != c.status || res.Close != c.closed {
				t.Fatalf("got %v, %v; want status %d, to be closed: %v", res, err, c.status, c.closed)
			}
			io.Copy(io.Discard, res.Body)
			if !c.closed {
				io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") // a request without a token on the same connection, as a proxy may send
				if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != 200 || res.Close {
					t.Errorf("the next request: %v, %v; want 200 on a connection that stays open", res, err)
				}
				return
			}
			if _, err := r.ReadByte(); err != io.EOF {
				t.Errorf("after the answer: %v, want the connection closed", err)
			}
		})
	}
}

func TestSilentConnectionsAreClosed(t *testing.T) {
	t.Parallel()
	address, _ := serve(t, nil)
	c := dial(t, address)
	c.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("got %v, want the connection closed within a minute", err)
	}
}

func TestTheOldestAnonymousConnectionIsClosedFirst(t *testing.T) {
	address, _ := serve(t, func(c *server.HTTPConfig) { c.MaxConns = 4 })
	var idle []net.Conn
	for range 4 { // the limit is 4 connections, of which one address may have 3
		idle = append(idle, dial(t, address))
	}
	idle[0].SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := idle[0].Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("the oldest connection: %v, want it closed", err)
	}
	wantOperatorAnswered(t, address)
}

func TestANamedTokenCannotHoldAllConnections(t *testing.T) {
	address, _ := serve(t, withAlice(t, func(c *server.HTTPConfig) { c.MaxConns = 16 }))
	open := func(token string) (status int, connection net.Conn) {
		c := dial(t, address)
		fmt.Fprintf(c, "GET /v1/info HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n", token)
		c.SetReadDeadline(time.Now().Add(time.Minute))
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return 0, c
		}
		io.Copy(io.Discard, res.Body)
		return res.StatusCode, c
	}
	for i := range 11 {
		if status, _ := open(aliceSecret); status != http.StatusOK {
			t.Fatalf("alice's connection %d: %d, want 200", i+1, status)
		}
	}
	for range 10 {
		wantOperatorAnswered(t, address)
		open(aliceSecret)
	}
	wantOperatorAnswered(t, address)
}

// waiting is a fake daemon whose executions never end, so that every call of GetExecution waits for the full time.
type waiting struct {
	tools.Sandboxes
	atOnce *atomic.Int64
}

func (w waiting) GetExecution(ctx context.Context, id string, seconds float64, _ sandbox.Window) (sandbox.Execution, error) {
	w.atOnce.Add(1)
	defer w.atOnce.Add(-1)
	select {
	case <-ctx.Done():
		return sandbox.Execution{}, ctx.Err()
	case <-time.After(time.Duration(seconds * float64(time.Second))):
		return sandbox.Execution{ID: sandbox.ExecutionID(id), State: sandbox.ExecRunning}, nil
	}
}

func (w waiting) List(context.Context, sandbox.ListRequest) (sandbox.Page, error) {
	return sandbox.Page{}, nil
}

const longPoll = `{"execution_id":"exec_a7g3gxlacr7yeca7snkhpktrwh","wait_seconds":300}`

// TestLongPollsLeaveSlotsToOtherRequests starts more long polls than there are slots for working requests, and checks that
// other requests are still answered.
func TestLongPollsLeaveSlotsToOtherRequests(t *testing.T) {
	var atOnce atomic.Int64
	list := tools.New(waiting{atOnce: &atOnce}, tools.Config{})
	for name, token := range map[string]string{"of a named token": aliceSecret, "of the operator": secret} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			address, _ := serveOf(t, list, openSpool(t, 0), withAlice(t, nil))
			var polls sync.WaitGroup
			defer polls.Wait()
			defer cancel()
			const many = 300
			for range many {
				polls.Go(func() {
					r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/mcp", strings.NewReader(toolCall("1", "get_execution", longPoll)))
					if err != nil {
						t.Error(err)
						return
					}
					setHeader(r, []string{"Authorization: Bearer " + token})
					if res, err := http.DefaultClient.Do(r); err == nil {
						body, _ := io.ReadAll(res.Body)
						res.Body.Close()
						if ctx.Err() == nil {
							t.Errorf("a long poll ended: %d %s", res.StatusCode, body)
						}
					}
				})
			}
			eventually(t, "all long polls wait", func() bool { return atOnce.Load() == many })
			for range 3 {
				wantOperatorAnswered(t, address)
				if res, body := ask(t, http.MethodPost, "http://"+address+"/mcp", toolCall("1", "list_sandboxes", `{}`)); res.StatusCode != http.StatusOK {
					t.Errorf("the operator's call: %d %s", res.StatusCode, body)
				}
			}
			_, metrics := ask(t, http.MethodGet, "http://"+address+"/metrics", "")
			if want := fmt.Sprintf("dormouse_http_requests_in_flight{kind=\"wait\"} %d\n", many); !strings.Contains(metrics, want) {
				t.Errorf("the metrics lack %q", want)
			}
		})
		eventually(t, "all long polls have ended", func() bool { return atOnce.Load() == 0 })
	}
}

// TestAWaitWithoutASlotIsCutShort takes all slots for waiting requests, and checks that one more long poll is answered
// early.
func TestAWaitWithoutASlotIsCutShort(t *testing.T) {
	var atOnce atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	address, _ := serveOf(t, tools.New(waiting{atOnce: &atOnce}, tools.Config{}), openSpool(t, 0), func(c *server.HTTPConfig) { c.MaxWaits = 1 })
	var polls sync.WaitGroup
	defer polls.Wait()
	defer cancel()
	polls.Go(func() {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/mcp", strings.NewReader(toolCall("1", "get_execution", longPoll)))
		if err != nil {
			t.Error(err)
			return
		}
		setHeader(r, nil)
		if res, err := http.DefaultClient.Do(r); err == nil {
			res.Body.Close()
		}
	})
	eventually(t, "the long poll waits", func() bool { return atOnce.Load() == 1 })
	if _, body := ask(t, http.MethodPost, "http://"+address+"/mcp", toolCall("1", "get_execution", longPoll)); !strings.Contains(body, "is still running") || strings.Contains(body, `"isError":true`) {
		t.Errorf("got %s, want an answer that the execution still runs", body)
	}
}

// TestLongPollsOnOneConnectionLeaveSlotsForCalls checks that long polls do not block other calls on stdio, where all calls
// share one connection. SSE uses the same code.
func TestLongPollsOnOneConnectionLeaveSlotsForCalls(t *testing.T) {
	var atOnce atomic.Int64
	list := tools.New(waiting{atOnce: &atOnce}, tools.Config{})
	p := connectTo(t, server.New(list, server.Config{MaxCalls: 2}))
	for i := range 8 {
		p.send(toolCall(fmt.Sprint(i+100), "get_execution", longPoll))
	}
	eventually(t, "all long polls wait", func() bool { return atOnce.Load() == 8 })
	p.send(toolCall("7", "list_sandboxes", `{}`))
	if a := p.next(); a.ID != 7.0 {
		t.Errorf("got %s, want the answer to the call", a.raw)
	}
}

// ending is a fake daemon whose executions run until done is closed. It sets tooMany if two calls of GetExecution that do not
// wait (with 0 seconds) run at the same time.
type ending struct {
	tools.Sandboxes
	done    chan struct{}
	waits   *atomic.Int64
	reads   *atomic.Int64
	tooMany *atomic.Bool
}

func (e ending) GetExecution(ctx context.Context, id string, seconds float64, _ sandbox.Window) (sandbox.Execution, error) {
	ex := sandbox.Execution{ID: sandbox.ExecutionID(id), State: sandbox.ExecRunning}
	if seconds == 0 {
		if e.reads.Add(1) > 1 {
			e.tooMany.Store(true)
		}
		time.Sleep(time.Second) // concurrent calls overlap, because the test runs with a fake clock
		e.reads.Add(-1)
		ex.State = sandbox.ExecSucceeded
		return ex, nil
	}
	if seconds < 1 || e.waits.Add(1) > 4 {
		<-e.done
		ex.State = sandbox.ExecSucceeded
		return ex, nil
	}
	return ex, nil // the first wait of each call ends at once, with the execution still running
}

func TestCallsOnOneConnectionWorkInTurnAfterTheirWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ending{done: make(chan struct{}), waits: new(atomic.Int64), reads: new(atomic.Int64), tooMany: new(atomic.Bool)}
		p := connectTo(t, server.New(tools.New(e, tools.Config{}), server.Config{MaxCalls: 1}))
		for i := range 4 {
			p.send(strings.Replace(toolCall(fmt.Sprint(i+1), "get_execution", longPoll), `"params":{`, `"params":{"_meta":{"progressToken":"p"},`, 1))
		}
		eventually(t, "all calls wait", func() bool { return e.waits.Load() == 8 })
		close(e.done)
		for answers := 0; answers < 4; {
			a := p.next()
			if a.ID == nil {
				continue // skip a progress report, which has no id
			}
			if answers++; !strings.Contains(string(a.raw), "succeeded") {
				t.Errorf("got %s, want an execution that succeeded", a.raw)
			}
		}
		if e.tooMany.Load() {
			t.Error("calls read executions at once after their waits, want one at a time")
		}
	})
}
