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
	case <-time.After(20 * time.Second):
	}
	if s.url == "" {
		t.Fatalf("dormouse serve %v does not serve:\n%s", arg, s.log())
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
	case <-time.After(15 * time.Second):
		s.t.Fatal("dormouse serve does not end")
	}
	return s.cmd.ProcessState.ExitCode()
}

// TestServe checks that the server starts without an engine and reports at /readyz that it is not ready. The server must also
// serve the home's socket, and must never print its token.
func TestServe(t *testing.T) {
	h := newHome(t, noEngine...)
	s := startServe(t, h)
	if info, err := os.Stat(filepath.Join(h.dir, "token")); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the token's file: %v, %v", info, err)
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
			t.Errorf("GET %s = %d %.300s, want %d %s", c.path, status, body, c.status, c.says)
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
		t.Errorf("list_sandboxes over HTTP: %s", body)
	}
	if out, errout, status := h.run("", "ls", "--json"); status != 0 || strings.TrimSpace(out) != "[]" {
		t.Errorf("dormouse ls beside it: %d %s%s", status, out, errout)
	}
	if _, errout, status := h.run("", "serve", "--listen=127.0.0.1:0"); status == 0 || !strings.Contains(errout, "runs already") {
		t.Errorf("a second one in the home: %d %s", status, errout)
	}
	token := s.token
	if status := s.stop(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if log := s.log(); strings.Contains(log, token) || strings.Contains(log, strings.TrimPrefix(token, "dormouse_")) {
		t.Error("the token is in what the server printed")
	}
	if again := startServe(t, h); again.token != token {
		t.Error("the token changed with a restart")
	}
}

// TestS02_Listen checks that the server refuses an address that other machines can reach, and other unsafe or incomplete
// flags. With --insecure-http the server must accept such an address and print a warning.
func TestS02_Listen(t *testing.T) {
	for _, c := range []struct {
		name, says string
		args       []string
	}{
		{"every address", "--insecure-http", []string{"--listen=0.0.0.0:0"}},
		{"every address, in short", "--insecure-http", []string{"--listen=:0"}},
		{"every address of IPv6", "--insecure-http", []string{"--listen=[::]:0"}},
		{"an address of a network", "--insecure-http", []string{"--listen=192.0.2.1:8765"}},
		{"a name", "--insecure-http", []string{"--listen=example.com:8765"}},
		{"no port", "HOST:PORT", []string{"--listen=127.0.0.1"}},
		{"half of TLS", "--tls-key", []string{"--tls-cert=/nonexistent"}},
		{"TLS without its files", "tls-cert", []string{"--tls-cert=/nonexistent", "--tls-key=/nonexistent"}},
		{"a token that is not there", "token", []string{"--listen=127.0.0.1:0", "--token-file=/nonexistent"}},
		{"any origin", "origin", []string{"--listen=127.0.0.1:0", "--allow-origin=*"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHome(t, noEngine...)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, binary, append([]string{"serve"}, c.args...)...)
			cmd.Env = append(os.Environ(), h.env...)
			out, err := cmd.CombinedOutput()
			if err == nil || ctx.Err() != nil || !strings.Contains(string(out), c.says) {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	t.Run("said to be insecure, it warns", func(t *testing.T) {
		h := newHome(t, noEngine...)
		s := startServe(t, h, "--listen=0.0.0.0:0", "--insecure-http")
		if status, _ := s.get("/v1/info", ""); status != http.StatusUnauthorized {
			t.Errorf("without a token: %d", status)
		}
		eventually(t, 5*time.Second, "it warns", func() bool { return strings.Contains(s.log(), "WARNING: this is plain HTTP") })
	})
}

// TestServeTLS checks that a server with a certificate accepts only TLS connections, also on an address that other machines can
// reach.
func TestServeTLS(t *testing.T) {
	h := newHome(t, noEngine...)
	cert, key, pool := certificate(t)
	s := startServe(t, h, "--listen=0.0.0.0:0", "--tls-cert="+cert, "--tls-key="+key, "--sse")
	s.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	if status, body := s.get("/v1/info", s.token); status != http.StatusOK {
		t.Errorf("GET /v1/info = %d %s", status, body)
	}
	if !strings.HasPrefix(s.url, "https://") || strings.Contains(s.log(), "WARNING") {
		t.Errorf("it prints %s", s.log())
	}
	if res, err := http.Get(strings.Replace(s.url, "https", "http", 1) + "/healthz"); err == nil && res.StatusCode == http.StatusOK {
		t.Error("plain HTTP was served")
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
