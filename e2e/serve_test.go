//go:build unix

package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// This file tests `dormouse serve` as a user starts it. The tests need no engine.

// served is a running `dormouse serve`.
type served struct {
	t      *testing.T
	h      *home
	cmd    *exec.Cmd
	client http.Client
	url    string
	token  string

	mu     sync.Mutex
	stderr bytes.Buffer
}

// noEngine is an environment in which no engine works. It makes tests independent of the engines of this machine.
var noEngine = []string{"DORMOUSE_ENGINE=docker", "DOCKER_HOST=unix:///nonexistent/docker.sock"}

func startServe(t *testing.T, h *home, arg ...string) *served {
	t.Helper()
	s := &served{t: t, h: h, cmd: exec.Command(binary, append([]string{"serve", "--listen=127.0.0.1:0", "--log-level=debug"}, arg...)...)}
	s.cmd.Env = append(os.Environ(), h.env...)
	pipe, err := s.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.cmd.Process.Kill(); s.cmd.Wait() })
	ready := make(chan string, 1)
	go func() {
		for lines := bufio.NewScanner(pipe); lines.Scan(); {
			s.mu.Lock()
			s.stderr.WriteString(lines.Text() + "\n")
			s.mu.Unlock()
			if m := regexp.MustCompile(`^  MCP +(\S+)/mcp$`).FindStringSubmatch(lines.Text()); m != nil {
				ready <- m[1]
			}
		}
		close(ready)
	}()
	select {
	case s.url = <-ready:
	case <-time.After(2 * time.Minute):
	}
	if s.url == "" {
		t.Fatalf("dormouse serve %v did not print its address:\n%s", arg, s.log())
	}
	if text, err := os.ReadFile(filepath.Join(h.dir, "token")); err == nil {
		s.token = strings.TrimSpace(string(text))
	}
	return s
}

func (s *served) log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stderr.String()
}

// get requests a path and returns the status and the body. An empty token sends no Authorization header.
func (s *served) get(path, token string) (int, string) {
	s.t.Helper()
	r, _ := http.NewRequest("GET", s.url+path, nil)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := s.client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(b)
}

// stop sends SIGTERM to the server, waits until it ends and returns its exit status.
func (s *served) stop() int {
	s.t.Helper()
	s.client.CloseIdleConnections()
	s.cmd.Process.Signal(syscall.SIGTERM)
	ended := make(chan error, 1)
	go func() { ended <- s.cmd.Wait() }()
	select {
	case <-ended:
	case <-time.After(2 * time.Minute):
		s.t.Fatal("dormouse serve did not end after SIGTERM")
	}
	return s.cmd.ProcessState.ExitCode()
}

// TestServe checks that the server starts without an engine and reports at /readyz that it is not ready. The server must also
// serve the home's socket, and must never print its token.
func TestServe(t *testing.T) {
	t.Parallel()
	h := newHome(t, noEngine...)
	s := startServe(t, h)
	if info, err := os.Stat(filepath.Join(h.dir, "token")); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the token file is %v (%v), want mode 0600", info, err)
	}
	for _, c := range []struct {
		path, token string
		status      int
		says        string
	}{
		{"/healthz", "", 200, "ok"},
		{"/readyz", "", 503, "not ready"},
		{"/metrics", "", 401, ""},
		{"/metrics", s.token, 200, "dormouse_sandboxes"},
		{"/v1/info", "", 401, ""},
		{"/v1/info", s.token, 200, "engine"},
		{"/v1/openapi.json", s.token, 200, "openapi"},
		{"/sse", s.token, 404, "--sse"},
	} {
		if status, body := s.get(c.path, c.token); status != c.status || !strings.Contains(body, c.says) {
			t.Errorf("GET %s: status %d, body %.300s; want %d and %q", c.path, status, body, c.status, c.says)
		}
	}
	r, _ := http.NewRequest("POST", s.url+"/mcp", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"list_sandboxes"}}`))
	r.Header.Set("Authorization", "Bearer "+s.token)
	r.Header.Set("Content-Type", "application/json")
	res, err := s.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if !strings.Contains(string(body), "There are no sandboxes") {
		t.Errorf("list_sandboxes over HTTP returned %s, want no sandboxes", body)
	}
	if out, errout, status := h.run("", "ls", "--json"); status != 0 || strings.TrimSpace(out) != "[]" {
		t.Errorf("dormouse ls in the home of the server: exit status %d, stdout %q, stderr %q; want 0 and []", status, out, errout)
	}
	if _, errout, status := h.run("", "serve", "--listen=127.0.0.1:0"); status == 0 || !strings.Contains(errout, "already runs") {
		t.Errorf("a second server in the home: exit status %d, stderr %q; want the error that one runs already", status, errout)
	}
	token := s.token
	if status := s.stop(); status != 0 {
		t.Errorf("after SIGTERM the server's exit status is %d, want 0", status)
	}
	if log := s.log(); strings.Contains(log, token) || strings.Contains(log, strings.TrimPrefix(token, "dormouse_")) {
		t.Error("the server printed its token")
	}
	if again := startServe(t, h); again.token != token {
		t.Error("the token changed after a restart")
	}
}

// TestS02_Listen checks that the server refuses an address that other machines can reach, and other unsafe or incomplete
// flags. With --insecure-http the server must accept such an address and print a warning.
func TestS02_Listen(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, says string
		args       []string
	}{
		{"all addresses", "--insecure-http", []string{"--listen=0.0.0.0:0"}},
		{"all addresses, without a host", "--insecure-http", []string{"--listen=:0"}},
		{"all IPv6 addresses", "--insecure-http", []string{"--listen=[::]:0"}},
		{"an address that is not loopback", "--insecure-http", []string{"--listen=192.0.2.1:8765"}},
		{"a host name", "--insecure-http", []string{"--listen=example.com:8765"}},
		{"no port", "HOST:PORT", []string{"--listen=127.0.0.1"}},
		{"--tls-cert without --tls-key", "--tls-key", []string{"--tls-cert=/nonexistent"}},
		{"TLS files that do not exist", "tls-cert", []string{"--tls-cert=/nonexistent", "--tls-key=/nonexistent"}},
		{"a token file that does not exist", "token", []string{"--listen=127.0.0.1:0", "--token-file=/nonexistent"}},
		{"an allowed origin of *", "origin", []string{"--listen=127.0.0.1:0", "--allow-origin=*"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHome(t, noEngine...)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, binary, append([]string{"serve"}, c.args...)...)
			cmd.Env = append(os.Environ(), h.env...)
			out, err := cmd.CombinedOutput()
			if err == nil || ctx.Err() != nil || !strings.Contains(string(out), c.says) {
				t.Errorf("got %v, want an error that contains %q:\n%s", err, c.says, out)
			}
		})
	}
	t.Run("--insecure-http prints a warning", func(t *testing.T) {
		h := newHome(t, noEngine...)
		s := startServe(t, h, "--listen=0.0.0.0:0", "--insecure-http")
		if status, _ := s.get("/v1/info", ""); status != http.StatusUnauthorized {
			t.Errorf("a request without a token: status %d, want 401", status)
		}
		eventually(t, "the log has the warning", func() bool { return strings.Contains(s.log(), "WARNING: this is plain HTTP") })
	})
}

// TestServeTLS checks that a server with a certificate accepts only TLS connections, also on an address that other machines can
// reach.
func TestServeTLS(t *testing.T) {
	t.Parallel()
	h := newHome(t, noEngine...)
	cert, key, pool := certificate(t)
	s := startServe(t, h, "--listen=0.0.0.0:0", "--tls-cert="+cert, "--tls-key="+key, "--sse")
	s.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	if status, body := s.get("/v1/info", s.token); status != http.StatusOK {
		t.Errorf("GET /v1/info: status %d, want 200: %s", status, body)
	}
	if !strings.HasPrefix(s.url, "https://") || strings.Contains(s.log(), "WARNING") {
		t.Errorf("the server's URL is %s, want https and no warning in the log:\n%s", s.url, s.log())
	}
	if res, err := http.Get(strings.Replace(s.url, "https", "http", 1) + "/healthz"); err == nil && res.StatusCode == http.StatusOK {
		t.Error("the server accepted a plain HTTP request")
	}
}

// certificate makes a self-signed certificate for localhost. It returns the paths of the certificate and of the key, and a pool
// of trusted certificates that contains the certificate.
func certificate(t *testing.T) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key, pool = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), x509.NewCertPool()
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(parsed)
	return cert, key, pool
}
