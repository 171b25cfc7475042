//go:build unix

// The end-to-end tests: the built binary, a real engine, real kernels and a real MCP
// client. Each file is a list of promises; this one is what they stand on.
package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/examples/mcpclient"
)

type args = mcpclient.Args

// binary is the dormouse command, built once for all tests.
var binary string

// root returns the repository's root, to which all paths in these tests are relative. go test starts a test in its package's folder.
func root() string {
	if _, err := os.Stat("go.mod"); err == nil {
		return "."
	}
	return ".."
}

func TestMain(m *testing.M) {
	os.Exit(func() int {
		if err := os.Chdir(root()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if binary = os.Getenv("DORMOUSE_TEST_BINARY"); binary != "" { // the tests run as somebody who can't build it
			return m.Run()
		}
		dir, err := os.MkdirTemp("", "dormouse-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "dormouse")
		if runsc, err := filepath.Abs("bin/runsc"); err == nil {
			// The gvisor engine looks for it beside the binary.
			_ = os.Symlink(runsc, filepath.Join(dir, "runsc"))
		}
		build := exec.Command("go", "build", "-o", binary, "./cmd/dormouse")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// platform is something that sandboxes can run on here.
type platform struct {
	name    string
	runtime string
	env     []string // chooses it
}

// platforms are the engines here, Docker once for each runtime that it has. A part that
// is not there is logged, or fails the test where CI says that it must be.
func platforms(t *testing.T) []platform {
	t.Helper()
	found := dockerPlatforms(t, false)
	if gvisor := engineHere("gvisor"); gvisor.OK && gvisor.Image {
		found = append(found, platform{"gvisor", "runsc", []string{"DORMOUSE_ENGINE=gvisor"}})
	} else if required("gvisor") {
		t.Fatalf("the gvisor engine is required here: %s", gvisor.Why)
	} else {
		t.Logf("not tested on the gvisor engine: %s", gvisor.Why)
	}
	if len(found) == 0 {
		t.Skip("no engine with the sandbox image is here")
	}
	return found
}

// dockerPlatforms are Docker's. The test is skipped where there are none, if it needs one.
func dockerPlatforms(t *testing.T, needed bool) []platform {
	t.Helper()
	if testing.Short() {
		t.Skip("needs an engine: not with -short")
	}
	docker := engineHere("docker")
	if !docker.OK || !docker.Image {
		why := "no Docker engine with the sandbox image: " + docker.Why
		if needed || required("docker") {
			missing(t, "docker", why)
		}
		t.Log("not tested on Docker: " + why)
		return nil
	}
	var found []platform
	for _, runtime := range []string{"runc", "runsc"} {
		if slices.Contains(docker.Runtimes, runtime) {
			found = append(found, platform{"docker-" + runtime, runtime, []string{"DORMOUSE_ENGINE=docker", "DORMOUSE_RUNTIME=" + runtime}})
		} else if required(runtime) {
			t.Fatalf("%s is required here and the engine has only %v", runtime, docker.Runtimes)
		}
	}
	return found
}

// anyEngine skips a test where there is nothing to run sandboxes on.
func anyEngine(t *testing.T) { t.Helper(); platforms(t) }

// needsDocker skips a test that is about Docker where there is none.
func needsDocker(t *testing.T) { t.Helper(); dockerPlatforms(t, true) }

func missing(t *testing.T, part, why string) {
	t.Helper()
	if required(part) {
		t.Fatalf("%s is required here: %s", part, why)
	}
	t.Skip(why)
}

func required(part string) bool {
	return slices.Contains(strings.Split(os.Getenv("DORMOUSE_TEST_REQUIRE"), ","), part)
}

type engineReport struct {
	OK       bool     `json:"ok"`
	Image    bool     `json:"image"`
	Why      string   `json:"why"`
	Runtimes []string `json:"runtimes"`
}

var (
	engines   = map[string]engineReport{}
	enginesMu sync.Mutex
)

// engineHere is what doctor says of an engine, asked once.
func engineHere(name string) engineReport {
	enginesMu.Lock()
	defer enginesMu.Unlock()
	if r, asked := engines[name]; asked {
		return r
	}
	var r engineReport
	out, err := exec.Command(binary, "doctor", "--engine-only", "--engine", name, "--json").Output()
	if jsonErr := json.Unmarshal(out, &r); jsonErr != nil {
		r.Why = fmt.Sprintf("doctor: %v, %v", err, jsonErr)
	}
	engines[name] = r
	return r
}

// home is a DORMOUSE_HOME with what was set for it. Its daemon and its sandboxes
// end with the test.
type home struct {
	t   *testing.T
	dir string
	env []string
}

func newHome(t *testing.T, env ...string) *home {
	t.Helper()
	dir, err := os.MkdirTemp("", "dm")
	if err != nil {
		t.Fatal(err)
	}
	h := &home{t: t, dir: dir, env: append([]string{"DORMOUSE_HOME=" + dir}, env...)}
	t.Cleanup(func() {
		h.removeAll()
		h.stop(syscall.SIGTERM)
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(dir, "sandboxd.log"))
			t.Logf("the daemon's log:\n%s", log[max(0, len(log)-8000):])
		}
		os.RemoveAll(dir)
	})
	return h
}

// removeAll deletes every sandbox, so that a test leaves no container behind.
func (h *home) removeAll() {
	out, _, _ := h.run("", "ls", "--json")
	var boxes []struct {
		ID string `json:"id"`
	}
	if json.Unmarshal([]byte(out), &boxes) != nil {
		return
	}
	for _, b := range boxes {
		h.run("", "rm", b.ID)
	}
}

// run runs a dormouse command and returns what it printed and its exit status.
func (h *home) run(stdin string, arg ...string) (stdout, stderr string, status int) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, arg...)
	cmd.Env = append(os.Environ(), h.env...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errout bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errout
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		h.t.Fatalf("dormouse %v: %v", arg, err)
	}
	return out.String(), errout.String(), cmd.ProcessState.ExitCode()
}

// pid is the daemon's, or 0.
func (h *home) pid() int {
	text, err := os.ReadFile(filepath.Join(h.dir, "sandboxd.pid"))
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return pid
}

// stop ends the daemon with a signal and waits until it is gone.
func (h *home) stop(sig syscall.Signal) {
	pid := h.pid()
	if pid == 0 {
		return
	}
	p, _ := os.FindProcess(pid)
	_ = p.Signal(sig)
	eventually(h.t, 20*time.Second, "the daemon ends", func() bool { return !alive(pid) && !h.listens() })
}

// listens reports whether somebody has the daemon's socket: its last threads may, after it has been killed.
func (h *home) listens() bool {
	conn, err := net.Dial("unix", filepath.Join(h.dir, "sandboxd.sock"))
	if err == nil {
		conn.Close()
	}
	return err == nil
}

// alive reports whether a process runs; a zombie (the test may be its parent) does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return syscall.Kill(pid, 0) == nil && !os.IsNotExist(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// session is an MCP session whose helpers fail the test.
type session struct {
	*mcpclient.Session
	t   *testing.T
	ctx context.Context
}

func (h *home) connect(t *testing.T, arg ...string) session {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	s, err := mcpclient.Start(ctx, binary, h.env, arg...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return session{s, t, ctx}
}

// with is the same session, reporting to a subtest.
func (s session) with(t *testing.T) session { return session{s.Session, t, s.ctx} }

// call calls a tool and returns its answer, an error of the tool's included.
func (s session) call(tool string, a args) mcpclient.Answer {
	s.t.Helper()
	r, err := s.Call(s.ctx, tool, a)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// ok calls a tool and insists that it worked.
func (s session) ok(tool string, a args) mcpclient.Answer {
	s.t.Helper()
	r := s.call(tool, a)
	if r.IsError {
		s.t.Fatalf("%s: %s", tool, r.Text)
	}
	return r
}

// refused calls a tool and insists on an error with these words in it.
func (s session) refused(tool string, a args, words ...string) mcpclient.Answer {
	s.t.Helper()
	r := s.call(tool, a)
	if !r.IsError {
		s.t.Errorf("%s(%.200v) = %.500s, want an error", tool, a, r.Text)
	}
	s.contains(r.Text, words...)
	return r
}

func (s session) create(a args) string {
	s.t.Helper()
	id, _ := s.ok("create_sandbox", a).Structured["id"].(string)
	if !strings.HasPrefix(id, "sbx_") {
		s.t.Fatalf("create_sandbox named %q", id)
	}
	return id
}

// run runs code and insists on words in the answer's text.
func (s session) run(id, code string, words ...string) mcpclient.Answer {
	s.t.Helper()
	return s.exec(args{"sandbox_id": id, "code": code}, words...)
}

func (s session) exec(a args, words ...string) mcpclient.Answer {
	s.t.Helper()
	r := s.ok("execute_code", a)
	s.contains(r.Text, words...)
	return r
}

func (s session) contains(text string, words ...string) {
	s.t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			s.t.Errorf("the answer has no %q in it:\n%.3000s", w, text)
		}
	}
}
