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
				t.Errorf("%s: %d, want %d", when, got, status)
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
	want("three tokens", 200, first, alice, bob)
	want("none of them", 401, secret, "", "alice", "alice "+alice, first+alice)
	if _, err := server.AddToken(path, "bob"); sandbox.KindOf(err) != sandbox.Invalid {
		t.Errorf("a second token of bob: %v", err)
	}
	if err := server.RemoveToken(path, "alice"); err != nil {
		t.Fatal(err)
	}
	want("revoked", 401, alice)
	want("not revoked", 200, first, bob)
	if err := server.RemoveToken(path, "alice"); sandbox.KindOf(err) != sandbox.NotFound {
		t.Errorf("removed twice: %v", err)
	}
	if names, err := server.TokenNames(path); err != nil || strings.Join(names, " ") != "default bob" {
		t.Errorf("TokenNames() = %v, %v", names, err)
	}
	for range 20 { // with that many changes, some leave the file with the same modification time as before
		again, err := server.AddToken(path, "alice")
		if err != nil {
			t.Fatal(err)
		}
		want("added again", 200, again)
		if err := server.RemoveToken(path, "alice"); err != nil {
			t.Fatal(err)
		}
		want("revoked again", 401, again)
	}
	if err := server.RemoveToken(path, server.OperatorToken); err != nil {
		t.Fatal(err)
	}
	want("the operator's is revoked", 401, first)
	if first, err = server.AddToken(path, server.OperatorToken); err != nil {
		t.Fatal(err)
	}
	want("the operator has another", 200, first, bob)
	if text, _ := os.ReadFile(path); !strings.HasPrefix(string(text), first+"\n") {
		t.Error("the operator's token is not the first line")
	}
	if runtime.GOOS != "windows" {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the file's mode: %v, %v", info, err)
		}
		long := time.Now().Add(-time.Hour) // an old modification time, so that TokenFile trusts it to show later changes
		os.Chtimes(path, long, long)
		want("nothing was changed", 200, first, bob)
		os.Chmod(path, 0o640)
		want("others can read it", 401, first, bob)
		if _, err := server.AddToken(path, "eve"); err == nil {
			t.Error("a token was added to a file that others can read")
		}
		os.Chmod(path, 0o600)
		want("they no longer can", 200, first, bob)
	}
	text, _ = os.ReadFile(path)
	os.WriteFile(path, append(text, "three words here\n"...), 0o600)
	want("a line that is none", 401, first, bob)
	os.Remove(path)
	want("no file", 401, first, bob)
	os.WriteFile(path, []byte("bob "+bob), 0o600)
	want("it is back", 200, bob)
	for i := range 20 { // overwrite the file in place, with the same size and perhaps the same modification time
		another := fmt.Sprintf("dormouse_%043d", i)
		os.WriteFile(path, []byte("bob "+another+strings.Repeat(" ", len(bob)-len(another))), 0o600)
		want("written over", 200, another)
		want("overwritten", 401, bob)
		bob = another
	}
	if left, _ := filepath.Glob(path + ".*"); len(left) != 1 || left[0] != path+".lock" {
		t.Errorf("left behind: %v", left)
	}
}

// TestS02_BadTokenFile checks that an invalid token file is refused, and that the error contains no token.
func TestS02_BadTokenFile(t *testing.T) {
	const other = "dormouse_another-secret-of-the-tests-0123456789"
	for name, text := range map[string]string{
		"the wrong way round": secret + " alice", "a short one": "alice abc", "three words": "alice " + secret + " x", "a name of no owner": "Alice " + secret,
		"a path": "../alice " + secret, "a name twice": "alice " + secret + "\nalice " + other, "a token twice": "alice " + secret + "\nbob " + secret,
		"two without a name": secret + "\n" + other, "two of the operator": secret + "\ndefault " + other, "nothing": "\n\n", "a long name": strings.Repeat("a", 64) + " " + secret,
	} {
		path := filepath.Join(t.TempDir(), "token")
		os.WriteFile(path, []byte(text), 0o600)
		for _, open := range []func(string, *slog.Logger) (*server.TokenFile, error){server.OpenTokenFile, server.OpenOrMakeTokenFile} {
			if _, err := open(path, discardLog); err == nil || strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), other) {
				t.Errorf("%s: %v", name, err)
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
			t.Fatalf("%v, %v", res, err)
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
	case <-time.After(5 * time.Second):
		t.Error("the stream of a revoked token goes on")
	}
	select {
	case err := <-his:
		t.Errorf("another's stream ended: %v", err)
	default:
	}
}

// TestS07_Rate checks that a request above the token's rate is refused with Retry-After, in the error format of its route,
// and that other tokens are not affected.
func TestS07_Rate(t *testing.T) {
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
	if refused < 6 || refused > 7 {
		t.Errorf("%d of ten at once were refused, want seven", refused)
	}
	for path, says := range map[string]string{"/mcp": `"jsonrpc":"2.0"`, "/v1/sandboxes": `"kind":"limit"`} {
		w := do(h, "POST", path, toolCall("1", "echo", `{}`))
		if body := w.Body.String(); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") != "1" || !strings.Contains(body, says) || !strings.Contains(body, "3 times a second") {
			t.Errorf("POST %s = %d %v %s", path, w.Code, w.Header(), body)
		}
	}
	if got := statusWithToken(t, h, other); got != http.StatusOK {
		t.Errorf("another's request: %d", got)
	}
	if w := do(h, "GET", "/healthz", ""); w.Code != http.StatusOK {
		t.Errorf("health: %d", w.Code)
	}
	time.Sleep(400 * time.Millisecond)
	if w := do(h, "GET", "/v1/info", ""); w.Code != http.StatusOK {
		t.Errorf("after a while: %d", w.Code)
	}
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
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() { ask(t, "POST", "http://"+address+"/mcp", toolCall("1", "wait", `{"ms":600}`)) })
	}
	time.Sleep(200 * time.Millisecond)
	res, body := ask(t, "POST", "http://"+address+"/mcp", toolCall("1", "echo", `{}`), "Authorization: Bearer "+other)
	if res.StatusCode != http.StatusOK {
		t.Errorf("another's request: %d %s", res.StatusCode, body)
	}
	wg.Wait()
}
