package server_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/server"
)

var discardLog = slog.New(slog.DiscardHandler)

// statusWithToken sends a request with a token and returns the HTTP status.
func statusWithToken(t *testing.T, h http.Handler, token string) int {
	t.Helper()
	return do(h, "GET", "/v1/info", "", "Authorization: Bearer "+token).Code
}

// TestS02_TokenFile checks that adding and revoking a token applies to the next request, and that no token is valid while
// the file can't be trusted.
func TestS02_TokenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	file, err := server.OpenOrMakeTokenFile(path, discardLog)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(path)
	first := strings.TrimSpace(string(text))
	h := newHTTP(t, "127.0.0.1:8765", func(c *server.HTTPConfig) { c.Tokens, c.TokenFile = nil, file })
	want := func(when string, status int, tokens ...string) {
		t.Helper()
		for _, token := range tokens {
			if got := statusWithToken(t, h, token); got != status {
				t.Errorf("after %s, the status is %d, want %d", when, got, status)
			}
		}
	}
	alice, err := server.AddToken(path, "alice")
	if err != nil {
		t.Fatal(err)
	}
	bob, err := server.AddToken(path, "bob")
	if err != nil {
		t.Fatal(err)
	}
	want("adding two tokens", 200, first, alice, bob)
	want("adding two tokens, with invalid ones", 401, secret, "", "alice", "alice "+alice, first+alice)
	if _, err := server.AddToken(path, "bob"); sandbox.KindOf(err) != sandbox.Invalid {
		t.Errorf("AddToken() for a name that has a token = %v, want invalid", err)
	}
	if err := server.RemoveToken(path, "alice"); err != nil {
		t.Fatal(err)
	}
	want("revoking alice", 401, alice)
	want("revoking alice", 200, first, bob)
	if err := server.RemoveToken(path, "alice"); sandbox.KindOf(err) != sandbox.NotFound {
		t.Errorf("RemoveToken() for a name without a token = %v, want not found", err)
	}
	if names, err := server.TokenNames(path); err != nil || strings.Join(names, " ") != "default bob" {
		t.Errorf("TokenNames() = %v, %v, want default and bob", names, err)
	}
	for range 20 { // with that many changes, some leave the file with the same modification time as before
		again, err := server.AddToken(path, "alice")
		if err != nil {
			t.Fatal(err)
		}
		want("adding alice again", 200, again)
		if err := server.RemoveToken(path, "alice"); err != nil {
			t.Fatal(err)
		}
		want("revoking alice again", 401, again)
	}
	if err := server.RemoveToken(path, server.OperatorToken); err != nil {
		t.Fatal(err)
	}
	want("revoking the operator", 401, first)
	if first, err = server.AddToken(path, server.OperatorToken); err != nil {
		t.Fatal(err)
	}
	want("adding the operator again", 200, first, bob)
	if text, _ := os.ReadFile(path); !strings.HasPrefix(string(text), first+"\n") {
		t.Error("the first line of the file is not the operator's token")
	}
	if runtime.GOOS != "windows" {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the file is %v, %v, want mode 600", info, err)
		}
		long := time.Now().Add(-time.Hour) // an old modification time, so that TokenFile trusts it to show later changes
		os.Chtimes(path, long, long)
		want("no change", 200, first, bob)
		os.Chmod(path, 0o640)
		want("giving others access to the file", 401, first, bob)
		if _, err := server.AddToken(path, "eve"); err == nil {
			t.Error("AddToken() to a file that others can read succeeded, want an error")
		}
		os.Chmod(path, 0o600)
		want("removing the access of others", 200, first, bob)
	}
	text, _ = os.ReadFile(path)
	os.WriteFile(path, append(text, "three words here\n"...), 0o600)
	want("adding an invalid line", 401, first, bob)
	os.Remove(path)
	want("removing the file", 401, first, bob)
	os.WriteFile(path, []byte("bob "+bob), 0o600)
	want("creating the file again", 200, bob)
	for i := range 20 { // overwrite the file in place, with the same size and perhaps the same modification time
		another := fmt.Sprintf("dormouse_%043d", i)
		os.WriteFile(path, []byte("bob "+another+strings.Repeat(" ", len(bob)-len(another))), 0o600)
		want("overwriting the file, with the new token", 200, another)
		want("overwriting the file, with the old token", 401, bob)
		bob = another
	}
	if left, _ := filepath.Glob(path + ".*"); len(left) != 1 || left[0] != path+".lock" {
		t.Errorf("files beside the token file: %v, want only its lock file", left)
	}
}

// TestS02_BadTokenFile checks that an invalid token file is refused, and that the error contains no token.
func TestS02_BadTokenFile(t *testing.T) {
	const other = "dormouse_another-secret-of-the-tests-0123456789"
	for name, text := range map[string]string{
		"the token before the name": secret + " alice", "a short token": "alice abc", "three words": "alice " + secret + " x", "an invalid name": "Alice " + secret,
		"a path as a name": "../alice " + secret, "a name twice": "alice " + secret + "\nalice " + other, "a token twice": "alice " + secret + "\nbob " + secret,
		"two tokens without a name": secret + "\n" + other, "two tokens of the operator": secret + "\ndefault " + other, "empty lines only": "\n\n", "a long name": strings.Repeat("a", 64) + " " + secret,
	} {
		path := filepath.Join(t.TempDir(), "token")
		os.WriteFile(path, []byte(text), 0o600)
		for _, open := range []func(string, *slog.Logger) (*server.TokenFile, error){server.OpenTokenFile, server.OpenOrMakeTokenFile} {
			if _, err := open(path, discardLog); err == nil || strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), other) {
				t.Errorf("opening a file with %s = %v, want an error that contains no token", name, err)
			}
		}
	}
	for _, name := range []string{"", "Alice", "a b", "-a", "a/b", "a\nb", strings.Repeat("a", 64)} {
		if _, err := server.AddToken(filepath.Join(t.TempDir(), "token"), name); sandbox.KindOf(err) != sandbox.Invalid {
			t.Errorf("AddToken(%q) = %v, want invalid", name, err)
		}
	}
}

// TestTokenFileEditors checks that no token is lost if several tokens are added while a server creates the file.
func TestTokenFileEditors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if _, err := server.AddToken(path, fmt.Sprint("owner", i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Go(func() {
		if _, err := server.OpenOrMakeTokenFile(path, discardLog); err != nil {
			t.Error(err)
		}
	})
	wg.Wait()
	if names, err := server.TokenNames(path); err != nil || len(names) < 8 {
		t.Errorf("TokenNames() = %v, %v, want all eight", names, err)
	}
}

// TestS02_RevokedStream checks that streams and waits end soon after their token was revoked, and that the streams and waits
// of other tokens continue.
func TestS02_RevokedStream(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	alice, err := server.AddToken(path, "alice")
	if err != nil {
		t.Fatal(err)
	}
	bob, err := server.AddToken(path, "bob")
	if err != nil {
		t.Fatal(err)
	}
	file, err := server.OpenOrMakeTokenFile(path, discardLog)
	if err != nil {
		t.Fatal(err)
	}
	address, _ := serve(t, func(c *server.HTTPConfig) { c.Tokens, c.TokenFile = nil, file })
	stream := func(token string) (ended chan error) {
		r, _ := http.NewRequest("GET", "http://"+address+"/sse", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		res, err := http.DefaultClient.Do(r)
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("open a stream: %v, %v", res, err)
		}
		t.Cleanup(func() { res.Body.Close() })
		ended = make(chan error, 1)
		go func() {
			for b := make([]byte, 100); ; {
				if _, err := res.Body.Read(b); err != nil {
					ended <- err
					return
				}
			}
		}()
		return ended
	}
	hers, his := stream(alice), stream(bob)
	if err := server.RemoveToken(path, "alice"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-hers:
	case <-time.After(time.Minute):
		t.Error("the stream of a revoked token is open after a minute")
	}
	select {
	case err := <-his:
		t.Errorf("the stream of another token ended: %v", err)
	default:
	}
}

// TestS07_Rate checks that a request above the token's rate is refused with Retry-After, in the error format of its route,
// and that other tokens are not affected.
func TestS07_Rate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mine, _ := server.NewToken("alice", secret)
		const other = "dormouse_another-secret-of-the-tests-0123456789"
		his, _ := server.NewToken("bob", other)
		h := newHTTP(t, "127.0.0.1:8765", func(c *server.HTTPConfig) { c.Tokens, c.Rate = []server.Token{mine, his}, 3 })
		refused := 0
		for range 10 {
			if do(h, "GET", "/v1/info", "").Code == http.StatusTooManyRequests {
				refused++
			}
		}
		if refused != 7 {
			t.Errorf("%d of ten requests at once were refused, want 7", refused)
		}
		for path, says := range map[string]string{"/mcp": `"jsonrpc":"2.0"`, "/v1/sandboxes": `"kind":"limit"`} {
			w := do(h, "POST", path, toolCall("1", "echo", `{}`))
			if body := w.Body.String(); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") != "1" || !strings.Contains(body, says) || !strings.Contains(body, "3 requests a second") {
				t.Errorf("POST %s = %d %v %s, want 429 with Retry-After and %s", path, w.Code, w.Header(), body, says)
			}
		}
		if got := statusWithToken(t, h, other); got != http.StatusOK {
			t.Errorf("a request with another token: %d, want 200", got)
		}
		if w := do(h, "GET", "/healthz", ""); w.Code != http.StatusOK {
			t.Errorf("GET /healthz: %d, want 200", w.Code)
		}
		time.Sleep(400 * time.Millisecond)
		if w := do(h, "GET", "/v1/info", ""); w.Code != http.StatusOK {
			t.Errorf("a request after 0.4 s: %d, want 200", w.Code)
		}
	})
}

// TestS07_OneTokenCannotUseAllSlots checks that a request with another token is answered while one token makes as many
// concurrent requests as the server has slots.
func TestS07_OneTokenCannotUseAllSlots(t *testing.T) {
	mine, _ := server.NewToken("alice", secret)
	const other = "dormouse_another-secret-of-the-tests-0123456789"
	his, _ := server.NewToken("bob", other)
	address, _ := serve(t, func(c *server.HTTPConfig) {
		c.Tokens, c.MaxRequests, c.Queue = []server.Token{mine, his}, 4, 50*time.Millisecond
	})
	g := newGate(t)
	refused := make(chan int, 6)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if res, _ := ask(t, "POST", "http://"+address+"/mcp", g.call("1")); res.StatusCode != http.StatusOK {
				refused <- res.StatusCode
			}
		})
	}
	g.awaitCalls(3) // alice may use three quarters of the slots
	for range 3 {
		if got := <-refused; got != http.StatusServiceUnavailable {
			t.Errorf("alice's request beyond her slots: %d, want 503", got)
		}
	}
	res, body := ask(t, "POST", "http://"+address+"/mcp", toolCall("1", "echo", `{}`), "Authorization: Bearer "+other)
	if res.StatusCode != http.StatusOK {
		t.Errorf("bob's request: %d %s, want 200", res.StatusCode, body)
	}
	g.open()
	wg.Wait()
}
