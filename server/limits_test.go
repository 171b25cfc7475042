package server_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/server"
)

// dial opens a TCP connection on which a test sends raw HTTP.
func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func post(address string, contentLength int) string {
	return fmt.Sprintf("POST /mcp HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", address, secret, contentLength)
}

// status reads an answer from c and returns its status line.
func status(t *testing.T, c net.Conn) string {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(time.Minute))
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Errorf("read the status line: %v", err)
	}
	return strings.TrimSpace(line)
}

// wantAliveHTTP fails the test unless the server answers a valid call from another client.
func wantAliveHTTP(t *testing.T, address string) {
	t.Helper()
	res, body := ask(t, "POST", "http://"+address+"/mcp", toolCall("1", "echo", `{}`))
	if res.StatusCode != http.StatusOK || !strings.Contains(body, `"{}"`) {
		t.Errorf("the answer to a valid call is %d %s, want that the server still works", res.StatusCode, body)
	}
}

// TestS04_Slow checks that the server answers a request with 408 if its body arrives too slowly or not at all, and that other
// clients are not affected.
func TestS04_Slow(t *testing.T) {
	address, _ := serve(t, func(c *server.HTTPConfig) { c.BodyPatience = time.Second })
	silent, trickling := dial(t, address), dial(t, address)
	io.WriteString(silent, post(address, 1000))
	io.WriteString(trickling, post(address, 1000))
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond): // this client sends 50 bytes a second
				io.WriteString(trickling, " ")
			}
		}
	}()
	wantAliveHTTP(t, address)
	for name, c := range map[string]net.Conn{"silent": silent, "trickling": trickling} {
		if got := status(t, c); !strings.Contains(got, "408") {
			t.Errorf("the answer to a %s client: %q, want 408", name, got)
		}
	}
	wantAliveHTTP(t, address)
}

// TestSlowCall checks that BodyPatience limits only the time to read the body, and not the duration of a call.
func TestSlowCall(t *testing.T) {
	t.Parallel()
	address, _ := serve(t, func(c *server.HTTPConfig) { c.BodyPatience = time.Second })
	// The call takes longer than BodyPatience. The second call reuses the connection, so it fails if the deadline of the first
	// body was not removed.
	for range 2 {
		if _, body := ask(t, "POST", "http://"+address+"/mcp", toolCall("1", "wait", `{"ms":1200}`)); !strings.Contains(body, "waited") {
			t.Errorf("got %s", body)
		}
	}
}

// TestS04_Endless checks that an endless body is refused once it exceeds the limit.
func TestS04_Endless(t *testing.T) {
	address, _ := serve(t, func(c *server.HTTPConfig) { c.MaxBody = 1 << 20 })
	r, _ := http.NewRequest("POST", "http://"+address+"/mcp", io.LimitReader(endless{}, 1<<30))
	setHeader(r, nil)
	res, err := http.DefaultClient.Do(r)
	if err == nil { // an error is fine, too: the server may close the connection while the client still writes
		res.Body.Close()
		if res.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("status %d, want 413", res.StatusCode)
		}
	}
	wantAliveHTTP(t, address)
	if res, _ := ask(t, "POST", "http://"+address+"/mcp", strings.Repeat(" ", 1<<20+1)); res.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("a body one byte above the limit: %d, want 413", res.StatusCode)
	}
	padded := toolCall("1", "echo", `{}`)
	padded += strings.Repeat(" ", 1<<20-len(padded))
	if res, _ := ask(t, "POST", "http://"+address+"/mcp", padded); res.StatusCode != http.StatusOK {
		t.Errorf("a body at the limit: %d, want 200", res.StatusCode)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// TestS04_Parallel sends 64 bodies of the maximum size at once. It checks that memory stays bounded and that bodies for which
// there is no memory are refused with 503.
func TestS04_Parallel(t *testing.T) {
	const size = 8 << 20
	address, _ := serve(t, func(c *server.HTTPConfig) { c.MaxBody, c.BodiesBytes = size, 2*size })
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var wg sync.WaitGroup
	var mu sync.Mutex
	codes := map[string]int{}
	for i := range 64 {
		c := dial(t, address)
		wg.Go(func() {
			if i%2 == 0 {
				io.WriteString(c, post(address, size))
			} else { // chunked, so that the server does not know the size
				io.WriteString(c, strings.Replace(post(address, size), fmt.Sprintf("Content-Length: %d", size), "Transfer-Encoding: chunked", 1))
				fmt.Fprintf(c, "%x\r\n", size)
			}
			written := make(chan struct{})
			go func() {
				defer close(written)
				io.CopyN(c, endless{}, size)
				if i%2 == 1 {
					io.WriteString(c, "\r\n0\r\n\r\n")
				}
			}()
			code := "cut off"
			c.SetReadDeadline(time.Now().Add(time.Minute))
			if line, err := bufio.NewReader(c).ReadString('\n'); err == nil {
				code = strings.Fields(line)[1]
			}
			c.Close()
			<-written
			mu.Lock()
			defer mu.Unlock()
			codes[code]++
		})
	}
	wg.Wait()
	runtime.ReadMemStats(&after)
	t.Logf("statuses: %v", codes)
	if codes["503"] == 0 || codes["200"] > 0 || codes["413"] > 0 {
		t.Errorf("statuses: %v, want some 503, and no 200 or 413", codes)
	}
	if grown := int64(after.Sys) - int64(before.Sys); grown > 128<<20 {
		t.Errorf("memory grew by %d MiB, want at most 128", grown>>20)
	}
	// After all requests, no body holds a part of the budget.
	eventually(t, "no bytes of bodies are counted", func() bool {
		_, metrics := ask(t, "GET", "http://"+address+"/metrics", "")
		return strings.Contains(metrics, "dormouse_http_body_bytes 0\n")
	})
	wantAliveHTTP(t, address)
}

// TestS04_Headers checks that headers above the size limit are refused.
func TestS04_Headers(t *testing.T) {
	address, _ := serve(t, nil)
	c := dial(t, address)
	io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Large: "+strings.Repeat("x", 68<<10))
	if got := status(t, c); !strings.Contains(got, "431") {
		t.Errorf("%q, want 431", got)
	}
}

// TestFiles checks that uploading a file takes nothing from the budget for bodies, and that MaxBody does not apply to it.
func TestFiles(t *testing.T) {
	address, _ := serve(t, func(c *server.HTTPConfig) { c.MaxBody, c.BodiesBytes = 1000, 1000 })
	body := strings.Repeat("x", 1<<20)
	if _, got := ask(t, "PUT", "http://"+address+"/v1/sandboxes/s/files/a", body); !strings.Contains(got, `"bytes":1048576`) {
		t.Errorf("the upload of a file: %s, want that all its bytes arrive", got)
	}
	if res, _ := ask(t, "POST", "http://"+address+"/v1/sandboxes", strings.Repeat("x", 999)); res.StatusCode != http.StatusOK {
		t.Errorf("another body within the limit: %d, want 200", res.StatusCode)
	}
}

// TestS07_Busy checks that a request beyond the limit of concurrent requests waits for a slot, that it is refused with 503 if
// it gets none in time, and that /healthz is still answered.
func TestS07_Busy(t *testing.T) {
	var wg sync.WaitGroup
	fill := func(address string) *gate {
		g := newGate(t)
		for range 2 {
			wg.Go(func() { ask(t, "POST", "http://"+address+"/mcp", g.call("1")) })
		}
		g.awaitCalls(2)
		return g
	}
	address, _ := serve(t, func(c *server.HTTPConfig) { c.MaxRequests, c.Queue = 2, time.Minute })
	g := fill(address)
	if res, _ := ask(t, "GET", "http://"+address+"/healthz", ""); res.StatusCode != http.StatusOK {
		t.Errorf("the health of a full server: %d, want 200", res.StatusCode)
	}
	wg.Go(func() { wantAliveHTTP(t, address) }) // both slots are in use until the gate is opened
	g.open()
	wg.Wait()

	address, _ = serve(t, func(c *server.HTTPConfig) { c.MaxRequests, c.Queue = 2, time.Millisecond })
	t.Cleanup(http.DefaultClient.CloseIdleConnections) // unused connections would delay the shutdown
	g = fill(address)
	res, body := ask(t, "POST", "http://"+address+"/mcp", toolCall("1", "echo", `{}`))
	if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" || !strings.Contains(body, "2 requests are in flight") {
		t.Errorf("a request to a full server: %d %v %s, want 503 with Retry-After", res.StatusCode, res.Header, body)
	}
	g.open()
	wg.Wait()
}

// TestS02_Token checks that concurrent callers create only one token, that the token's file is complete and only this user can
// read it, and that a formatted Token does not contain the secret.
func TestS02_Token(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := server.OpenOrMakeTokenFile(path, discardLog); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	text, err := os.ReadFile(path)
	if err != nil || len(strings.TrimSpace(string(text))) != len("dormouse_")+43 {
		t.Fatalf("the token file contains %q, %v, want one token", text, err)
	}
	file, err := server.OpenOrMakeTokenFile(path, discardLog)
	if err != nil || len(file.Tokens()) != 1 {
		t.Fatalf("%v, %v", file, err)
	}
	token := file.Tokens()[0]
	if again, _ := os.ReadFile(path); string(again) != string(text) {
		t.Error("the file has changed, want that an existing token is kept")
	}
	if shown := fmt.Sprintf("%v %+v %#v", token, token, token); strings.Contains(shown, strings.TrimSpace(string(text))) {
		t.Error("a formatted token contains its secret")
	}
	if left, _ := filepath.Glob(path + ".*"); len(left) > 0 {
		t.Errorf("files beside the token file: %v, want none", left)
	}
	if runtime.GOOS == "windows" {
		return
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the token file = %o, want 600", info.Mode().Perm())
	}
	os.Chmod(path, 0o644)
	if _, err := server.OpenOrMakeTokenFile(path, discardLog); err == nil || !strings.Contains(err.Error(), "other users may have read") {
		t.Errorf("opening a token file that others can read = %v, want an error", err)
	}
	for name, content := range map[string]string{"no token": "", "a short token": "abc", "the same token twice": secret + "\n" + secret, "a long token": strings.Repeat("x", 2000)} {
		bad := filepath.Join(t.TempDir(), "token")
		os.WriteFile(bad, []byte(content), 0o600)
		if _, err := server.OpenTokenFile(bad, discardLog); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("opening a file with %s = %v, want an error without the secret", name, err)
		}
	}
	if _, err := server.OpenTokenFile(filepath.Join(t.TempDir(), "none"), discardLog); err == nil {
		t.Error("opening a file that does not exist succeeded, want an error")
	}
}

// eventually polls until ok returns true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for begun := time.Now(); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Since(begun) > time.Minute {
			t.Fatalf("did not happen within a minute: %s", what)
		}
	}
}
