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
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Errorf("no answer: %v", err)
	}
	return strings.TrimSpace(line)
}

// wantAliveHTTP fails the test unless the server answers a valid call from another client.
func wantAliveHTTP(t *testing.T, address string) {
	t.Helper()
	res, body := ask(t, "POST", "http://"+address+"/mcp", toolCall("1", "echo", `{}`))
	if res.StatusCode != http.StatusOK || !strings.Contains(body, `"{}"`) {
		t.Fatalf("the server does not answer as before: %d %s", res.StatusCode, body)
	}
}

// TestS04_Slow checks that the server answers a request with 408 if its body arrives too slowly or not at all, and that other
// clients are not affected.
func TestS04_Slow(t *testing.T) {
	address, _ := serve(t, func(c *server.HTTPConfig) { c.BodyPatience = 300 * time.Millisecond })
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
			case <-time.After(20 * time.Millisecond):
				io.WriteString(trickling, " ")
			}
		}
	}()
	wantAliveHTTP(t, address)
	for name, c := range map[string]net.Conn{"silent": silent, "trickling": trickling} {
		if got := status(t, c); !strings.Contains(got, "408") {
			t.Errorf("%s: %q, want 408", name, got)
		}
	}
	wantAliveHTTP(t, address)
}

// TestSlowCall checks that BodyPatience limits only the time to read the body, and not the duration of a call.
func TestSlowCall(t *testing.T) {
	address, _ := serve(t, func(c *server.HTTPConfig) { c.BodyPatience = 100 * time.Millisecond })
	for range 2 { // the second call reuses the connection, so it fails if the deadline of the first body was not removed
		if _, body := ask(t, "POST", "http://"+address+"/mcp", toolCall("1", "wait", `{"ms":400}`)); !strings.Contains(body, "waited") {
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
		t.Errorf("one byte over: %d", res.StatusCode)
	}
	padded := toolCall("1", "echo", `{}`)
	padded += strings.Repeat(" ", 1<<20-len(padded))
	if res, _ := ask(t, "POST", "http://"+address+"/mcp", padded); res.StatusCode != http.StatusOK {
		t.Errorf("at the limit: %d", res.StatusCode)
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
			c.SetReadDeadline(time.Now().Add(5 * time.Second))
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
		t.Errorf("statuses: %v", codes)
	}
	if grown := int64(after.Sys) - int64(before.Sys); grown > 128<<20 {
		t.Errorf("memory grew by %d MiB", grown>>20)
	}
	// After all requests, no body holds a part of the budget.
	eventuallyTrue(t, func() bool {
		_, metrics := ask(t, "GET", "http://"+address+"/metrics", "")
		return strings.Contains(metrics, "dormouse_http_body_bytes 0\n")
	})
	wantAliveHTTP(t, address)
}

func eventuallyTrue(t *testing.T, ok func() bool) {
	t.Helper()
	for begun := time.Now(); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Since(begun) > 5*time.Second {
			t.Fatal("it does not come")
		}
	}
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
		t.Errorf("got %s", got)
	}
	if res, _ := ask(t, "POST", "http://"+address+"/v1/sandboxes", strings.Repeat("x", 999)); res.StatusCode != http.StatusOK {
		t.Errorf("status %d", res.StatusCode)
	}
}

// TestS07_Busy checks that a request beyond the limit of concurrent requests waits for a moment and is then refused with
// 503, and that /healthz is still answered.
func TestS07_Busy(t *testing.T) {
	address, _ := serve(t, func(c *server.HTTPConfig) { c.MaxRequests = 2 })
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { ask(t, "POST", "http://"+address+"/mcp", toolCall("1", "wait", `{"ms":1000}`)) })
	}
	time.Sleep(100 * time.Millisecond)
	if res, _ := ask(t, "GET", "http://"+address+"/healthz", ""); res.StatusCode != http.StatusOK {
		t.Errorf("health of a full server: %d", res.StatusCode)
	}
	wantAliveHTTP(t, address) // both slots are in use, so this request waits for one
	wg.Wait()

	address, _ = serve(t, func(c *server.HTTPConfig) { c.MaxRequests, c.Queue = 2, time.Millisecond })
	for range 2 {
		wg.Go(func() { ask(t, "POST", "http://"+address+"/mcp", toolCall("1", "wait", `{"ms":500}`)) })
	}
	time.Sleep(100 * time.Millisecond)
	res, body := ask(t, "POST", "http://"+address+"/mcp", toolCall("1", "echo", `{}`))
	if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" || !strings.Contains(body, "2 requests are in flight") {
		t.Errorf("a full server: %d %v %s", res.StatusCode, res.Header, body)
	}
	wg.Wait()
}

// TestS02_Token checks that concurrent callers create only one token, that only this user can read its file, that the file
// is complete, and that the secret is never formatted.
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
		t.Fatalf("token %q, %v", text, err)
	}
	file, err := server.OpenOrMakeTokenFile(path, discardLog)
	if err != nil || len(file.Tokens()) != 1 {
		t.Fatalf("%v, %v", file, err)
	}
	token := file.Tokens()[0]
	if again, _ := os.ReadFile(path); string(again) != string(text) {
		t.Error("the token was made again")
	}
	if shown := fmt.Sprintf("%v %+v %#v", token, token, token); strings.Contains(shown, strings.TrimSpace(string(text))) {
		t.Error("a token shows its secret")
	}
	if left, _ := filepath.Glob(path + ".*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if runtime.GOOS == "windows" {
		return
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %o", info.Mode().Perm())
	}
	os.Chmod(path, 0o644)
	if _, err := server.OpenOrMakeTokenFile(path, discardLog); err == nil || !strings.Contains(err.Error(), "others may have read") {
		t.Errorf("a token that others can read: %v", err)
	}
	for name, content := range map[string]string{"empty": "", "short": "abc", "two lines": secret + "\n" + secret, "long": strings.Repeat("x", 2000)} {
		bad := filepath.Join(t.TempDir(), "token")
		os.WriteFile(bad, []byte(content), 0o600)
		if _, err := server.OpenTokenFile(bad, discardLog); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := server.OpenTokenFile(filepath.Join(t.TempDir(), "none"), discardLog); err == nil {
		t.Error("no file: no error")
	}
}

// eventually polls until ok returns true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for begun := time.Now(); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Since(begun) > time.Minute {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}
