package server_test

import (
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

// TestConformance runs the official MCP conformance suite against the HTTP server, with the ten tools and the fixtures that
// the suite requires (fixtures_test.go). e2e/conformance/run installs the suite and sets DORMOUSE_CONFORMANCE to its path.
func TestConformance(t *testing.T) {
	suite := os.Getenv("DORMOUSE_CONFORMANCE")
	if suite == "" {
		t.Skip("e2e/conformance/run runs this: it needs Node and the suite from npm")
	}
	url := serveSuite(t)
	for _, version := range []string{"2025-11-25", "2026-07-28"} {
		t.Run(version, func(t *testing.T) {
			expected, err := filepath.Abs("../e2e/conformance/expected-" + version + ".yaml")
			if err != nil {
				t.Fatal(err)
			}
			results := t.TempDir()
			run := exec.CommandContext(t.Context(), "node", suite, "server", "--url", url, "--requirements", version, "--expected-failures", expected, "--output-dir", results)
			out, err := run.CombinedOutput()
			t.Logf("conformance %s: %s", version, summarize(t, results, unscored(t, suite, version)))
			if err != nil {
				t.Errorf("the suite failed: %v\n%s", err, out)
			}
		})
	}
}

// unscored returns the scenarios that the suite runs for a protocol version but does not score: scenarios of extensions,
// which no version requires, and scenarios that are newer than the version or that the suite's own server does not pass.
func unscored(t *testing.T, suite, version string) map[string]bool {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "node", suite, "list", "--requirements", version).Output()
	_, list, ok := strings.Cut(string(out), "Run and reported, but never scored:")
	if err != nil || !ok {
		t.Fatalf("list the scenarios that the suite does not score: %v\n%s", err, out)
	}
	scenarios := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^ +- (\S+) \[server\]`).FindAllStringSubmatch(list, -1) {
		scenarios[m[1]] = true
	}
	return scenarios
}

// summarize returns a summary of the suite's results: the numbers of checks, and the suite's messages for the failures and
// warnings. It fails the test if an unscored scenario fails, unless the scenario is for an extension that Dormouse does not
// declare.
func summarize(t *testing.T, results string, unscored map[string]bool) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(results, "*", "checks.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("the suite wrote no results (%v)", err)
	}
	counted, others := map[string]int{}, map[string]int{}
	var words strings.Builder
	for _, file := range files {
		// The name of the folder is server-SCENARIO-TIME.
		scenario := regexp.MustCompile(`^server-(.*)-\d{4}-\d\d-\d\dT[\d-]+Z$`).ReplaceAllString(filepath.Base(filepath.Dir(file)), "$1")
		var checks []struct{ ID, Status, ErrorMessage string }
		text, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(text, &checks)
		}
		if err != nil {
			t.Errorf("read the results in %s: %v", file, err)
		}
		for _, c := range checks {
			if unscored[scenario] {
				others[c.Status]++
				if c.Status == "FAILURE" && !strings.HasPrefix(scenario, "tasks-") { // tasks-* are scenarios of an extension that Dormouse does not declare
					t.Errorf("%s:%s failed, although the suite does not score it: %s", scenario, c.ID, c.ErrorMessage)
				}
				continue
			}
			counted[c.Status]++
			if c.Status == "FAILURE" || c.Status == "WARNING" {
				fmt.Fprintf(&words, "\n%s %s:%s: %s", c.Status, scenario, c.ID, c.ErrorMessage)
			}
		}
	}
	return fmt.Sprintf("%d passed, %d failed, %d warnings; not scored: %d passed, %d failed in %d scenarios%s", counted["SUCCESS"], counted["FAILURE"], counted["WARNING"],
		others["SUCCESS"], others["FAILURE"], len(unscored), words.String())
}

// serveSuite starts the server and a proxy in front of it, and returns the proxy's URL. The proxy adds the token, which the
// suite cannot send, and leaves the Host and Origin headers unchanged.
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
	h, err := server.NewHTTP(s, server.HTTPConfig{Address: front.Addr().String(), Tokens: []server.Token{token}, Sandboxes: fakeDaemon{}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Serve(ctx, back) }()
	target := &url.URL{Scheme: "http", Host: back.Addr().String()}
	discardLog := log.New(io.Discard, "", 0) // the proxy would log each client that disconnects
	proxy := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: &httputil.ReverseProxy{FlushInterval: -1, ErrorLog: discardLog, Rewrite: func(r *httputil.ProxyRequest) {
		// Read the whole body first: net/http's client closes a connection if the answer ends before the request has been
		// sent.
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
