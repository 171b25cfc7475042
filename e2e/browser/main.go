// Command browser checks that a web page cannot use a local `dormouse serve --sse`. A real Chromium loads page.html from
// another origin. The page attacks the server in every way that a web page can. The check passes if the page could read
// nothing and the server's metrics show that the server refused every request of the page and ran no tool.
package main

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

//go:embed page.html
var page string

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "browser:", err)
		fmt.Println("0 passed, 1 failed")
		os.Exit(1)
	}
	fmt.Println("1 passed, 0 failed")
}

func run() error {
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "dormouse-browser-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	server, stop, err := serve(ctx, dir)
	if err != nil {
		return err
	}
	defer stop()

	// This program serves the page. The listener's port differs from Dormouse's, so the page has another origin.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	_, own, _ := net.SplitHostPort(l.Addr().String())
	_, port, _ := net.SplitHostPort(server)
	targets, _ := json.Marshal([]string{"http://127.0.0.1:" + port, "http://localhost:" + port, "http://rebound.test:" + port})
	reports := make(chan report, 1)
	go http.Serve(l, pages(strings.ReplaceAll(page, "TARGETS", string(targets)), reports))

	for _, from := range []string{
		"http://127.0.0.1:" + own, // another origin, because the port differs from Dormouse's
		"http://evil.test:" + own, // another origin, because the host differs
		"http://rebound.test:" + own,
		// DNS rebinding: the name rebound.test, which an attacker chose, resolves to this machine, so the browser requests
		// the page from Dormouse itself. Dormouse must refuse this request, so no report of the page arrives.
		"http://rebound.test:" + port,
	} {
		browser := exec.CommandContext(ctx, chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
			"--user-data-dir="+filepath.Join(dir, "profile"), "--host-resolver-rules=MAP *.test 127.0.0.1", from+"/")
		// The browser starts child processes. Killing its process group ends them too.
		browser.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		browser.Cancel = func() error { return syscall.Kill(-browser.Process.Pid, syscall.SIGKILL) }
		before, err := requests(server, dir)
		if err != nil {
			return err
		}
		if err := browser.Start(); err != nil {
			return err
		}
		var r report
		if strings.HasSuffix(from, ":"+own) {
			select {
			case r = <-reports:
			case <-time.After(patience):
				err = fmt.Errorf("the page at %s sent no report within %s", from, patience)
			}
		} else {
			r.Tried = 1
			err = untilRefused(server, dir, before.total)
		}
		_ = browser.Cancel()
		_ = browser.Wait() // the error is expected, because the browser was killed
		if err != nil {
			return err
		}
		after, err := requests(server, dir)
		if err != nil {
			return err
		}
		fmt.Printf("browser: a page at %s tried %d ways: %d requests, all refused (%s)\n", from, r.Tried, after.total-before.total, strings.Join(after.statuses, ", "))
		switch {
		case len(r.Got) > 0:
			return fmt.Errorf("the page read %q from the server, want nothing", r.Got)
		case len(after.bad) > 0:
			return fmt.Errorf("the server's metrics count requests that it did not refuse: %q", after.bad)
		case !slices.Contains(after.statuses, "403"):
			return fmt.Errorf("the server refused requests with %v only, want also 403 for the Host and Origin headers", after.statuses)
		case after.total-before.total < r.Tried/2:
			return fmt.Errorf("the server received %d of the page's %d requests, too few for a result", after.total-before.total, r.Tried)
		}
	}
	return nil
}

// patience limits the time that this program waits for the report of a page, or for the server to refuse a page.
const patience = 2 * time.Minute

// untilRefused waits until the server has refused more requests than before, or has answered one that it should have
// refused. The parameter before is the number of requests that the server had refused earlier.
func untilRefused(server, dir string, before int) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if now, err := requests(server, dir); err != nil || now.total > before || len(now.bad) > 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the server refused no request within %s", patience)
		}
	}
}

type report struct {
	Tried int
	Got   []string
}

// pages returns a handler that serves the page. The page posts the result of its attacks to /report; the handler sends this
// result to reports.
func pages(page string, reports chan<- report) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, page) })
	mux.HandleFunc("POST /report", func(_ http.ResponseWriter, r *http.Request) {
		var out report
		if err := json.NewDecoder(r.Body).Decode(&out); err != nil {
			out.Got = []string{err.Error()}
		}
		reports <- out
	})
	return mux
}

// serve starts `dormouse serve` without a working engine, which the server does not need, because it refuses every request
// of the page. serve returns the server's address. The caller must call stop.
func serve(ctx context.Context, dir string) (address string, stop func(), err error) {
	server := exec.CommandContext(ctx, "bin/dormouse", "serve", "--listen=127.0.0.1:0", "--sse")
	server.Env = append(os.Environ(), "DORMOUSE_HOME="+dir, "DOCKER_HOST=unix:///nonexistent/docker.sock")
	stderr, err := server.StderrPipe()
	if err != nil {
		return "", nil, err
	}
	if err := server.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		_ = server.Process.Signal(syscall.SIGTERM)
		_ = server.Wait() // the server's exit status does not matter
	}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		if m := regexp.MustCompile(`^  MCP +http://(\S+)/mcp$`).FindStringSubmatch(lines.Text()); m != nil {
			go io.Copy(io.Discard, stderr)
			return m[1], stop, nil
		}
	}
	stop()
	return "", nil, fmt.Errorf("dormouse serve does not serve: %w", lines.Err())
}

// counts contains the server's metrics about the requests that the server received, except for successful requests for
// /metrics, which come from this program.
type counts struct {
	total    int      // the number of refused requests
	statuses []string // the HTTP statuses of the refused requests
	bad      []string // metrics lines that count something other than a request refused with 401 or 403
}

var counted = regexp.MustCompile(`(?m)^(dormouse_http_requests_total\{(.*)\}|dormouse_tool_calls_total.*|dormouse_sandboxes.*) (\d+)$`)

// requests reads the server's metrics. It sends the server's token, which the page does not have.
func requests(address, dir string) (counts, error) {
	token, err := os.ReadFile(filepath.Join(dir, "token"))
	if err != nil {
		return counts{}, err
	}
	r, err := http.NewRequest(http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		return counts{}, err
	}
	r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return counts{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return counts{}, err
	}
	var c counts
	for _, m := range counted.FindAllStringSubmatch(string(body), -1) {
		n, _ := strconv.Atoi(m[3]) // cannot fail: this group of the pattern matches only digits
		switch status := regexp.MustCompile(`status="(\d+)"`).FindStringSubmatch(m[2]); {
		// This function itself sends the successful requests for /metrics.
		case n == 0, strings.Contains(m[2], `"/metrics"`) && status != nil && status[1] == "200":
		case status != nil && (status[1] == "401" || status[1] == "403"):
			c.total += n
			if !slices.Contains(c.statuses, status[1]) {
				c.statuses = append(c.statuses, status[1])
			}
		default:
			c.bad = append(c.bad, m[0])
		}
	}
	slices.Sort(c.statuses)
	return c, nil
}
