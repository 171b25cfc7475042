package server_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/server"
	"github.com/dormouse-sandbox/dormouse/tools"
)

// TestConformance runs the official conformance suite against the HTTP stack, with our ten tools
// and the fixtures that the suite wants (fixtures_test.go). build/conformance/run installs the
// suite and says by DORMOUSE_CONFORMANCE where it is.
func TestConformance(t *testing.T) {
	suite := os.Getenv("DORMOUSE_CONFORMANCE")
	if suite == "" {
		t.Skip("build/conformance/run runs this: it needs Node and the suite from npm")
	}
	url := serveSuite(t)
	for _, version := range []string{"2025-11-25", "2026-07-28"} {
		t.Run(version, func(t *testing.T) {
			expected, err := filepath.Abs("../build/conformance/expected-" + version + ".yaml")
			if err != nil {
				t.Fatal(err)
			}
			results := t.TempDir()
			run := exec.CommandContext(t.Context(), "node", suite, "server", "--url", url, "--requirements", version, "--expected-failures", expected, "--output-dir", results)
			out, err := run.CombinedOutput()
			t.Logf("conformance %s: %s\n%s", version, summary(out), failures(t, results))
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// summary is the line with which the suite ends.
func summary(out []byte) (line string) {
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		if regexp.MustCompile(`\d+ passed, \d+ failed`).MatchString(lines.Text()) {
			line = strings.TrimSpace(lines.Text())
		}
	}
	return line
}

// failures are the checks that did not pass, in the suite's own words.
func failures(t *testing.T, results string) string {
	t.Helper()
	var b strings.Builder
	files, err := filepath.Glob(filepath.Join(results, "*", "checks.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no results: %v", err)
	}
	for _, file := range files {
		var checks []struct{ ID, Status, ErrorMessage string }
		text, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(text, &checks)
		}
		if err != nil {
			t.Errorf("%s: %v", file, err)
		}
		for _, c := range checks {
			if c.Status == "FAILURE" || c.Status == "WARNING" {
				fmt.Fprintf(&b, "%s %s:%s: %s\n", c.Status, filepath.Base(filepath.Dir(file)), c.ID, c.ErrorMessage)
			}
		}
	}
	return b.String()
}

// serveSuite serves on a port of this machine, with a proxy in front that only adds the token,
// which the suite cannot send. Host and Origin pass through it as they are.
func serveSuite(t *testing.T) string {
	t.Helper()
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	back, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	token, err := server.NewToken("default", secret)
	if err != nil {
		t.Fatal(err)
	}
	s := server.New(tools.New(nil, tools.Config{}), server.Config{})
	addFixtures(s.MCP())
	h, err := server.NewHTTP(s, server.HTTPConfig{Address: front.Addr().String(), Tokens: []server.Token{token}, Sandboxes: inventory{}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Serve(ctx, back) }()
	target := &url.URL{Scheme: "http", Host: back.Addr().String()}
	quiet := log.New(io.Discard, "", 0) // of clients that hang up
	proxy := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: &httputil.ReverseProxy{FlushInterval: -1, ErrorLog: quiet, Rewrite: func(r *httputil.ProxyRequest) {
		// Whole: net/http's client closes a connection when an answer ends before it has seen the end of the request.
		body, _ := io.ReadAll(r.In.Body)
		r.Out.Body = io.NopCloser(bytes.NewReader(body))
		r.SetURL(target)
		r.Out.Host = r.In.Host
		r.Out.Header.Set("Authorization", "Bearer "+secret)
	}}}
	go proxy.Serve(front)
	t.Cleanup(func() {
		proxy.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return fmt.Sprintf("http://%s/mcp", front.Addr())
}
