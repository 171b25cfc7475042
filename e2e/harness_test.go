//go:build unix

// End-to-end tests of the built binary with a real engine, real kernels and a real MCP client. This file has the helpers that
// all of them use: platforms lists the engines to test on, home is a DORMOUSE_HOME with its daemon, and session is an MCP
// session. Each other file tests one area, such as the main job (job_test.go), bad input (badinput_test.go), a daemon that is
// killed (restart_test.go), suspend and resume (hibernate_test.go) and dormouse serve (serve_test.go). Tests that wait are
// parallel; tests that fill memory or a disk, or measure memory, are not.
package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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

// binary is the path of the dormouse binary, which is built once for all tests.
var binary string

// root returns the repository's root, to which all paths in these tests are relative. go test starts a test in its package's
// folder.
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
		// Three parallel tests run at once, even on a machine with fewer CPUs, because they mostly wait for a sandbox. The flag
		// -parallel of go test overrides this. A test that fills memory or a disk, or that measures memory, must not be parallel.
		if err := flag.Set("test.parallel", "3"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		// DORMOUSE_TEST_BINARY is set if the user who runs the tests can't build the command.
		if binary = os.Getenv("DORMOUSE_TEST_BINARY"); binary != "" {
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
			// The gvisor engine looks for runsc in the binary's folder.
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

// platform is an engine with a runtime that can run sandboxes on this machine.
type platform struct {
	name    string
	runtime string
	env     []string // environment variables that select the engine and the runtime
}

// platforms returns the platforms of this machine: the gvisor engine, and the Docker engine once for each of its runtimes. If
// an engine is missing, platforms logs it, or fails the test if DORMOUSE_TEST_REQUIRE names the engine. If no platform is
// found, it skips the test.
func platforms(t *testing.T) []platform {
	t.Helper()
	found := dockerPlatforms(t, false)
	if gvisor := engineHere("gvisor"); gvisor.OK && gvisor.Image {
		found = append(found, platform{"gvisor", "runsc", []string{"DORMOUSE_ENGINE=gvisor"}})
	} else if required("gvisor") {
		t.Fatalf("DORMOUSE_TEST_REQUIRE names gvisor, and the gvisor engine does not work here: %s", gvisor.Why)
	} else {
		t.Logf("not tested on the gvisor engine: %s", gvisor.Why)
	}
	if len(found) == 0 {
		t.Skip("needs an engine that has the sandbox image; dormouse doctor explains how to get one")
	}
	return found
}

// dockerPlatforms returns the platforms of the Docker engine. If no Docker engine works on this machine, dockerPlatforms fails
// the test if DORMOUSE_TEST_REQUIRE names docker; otherwise it skips the test if needed is true, and returns nothing if needed
// is false. It also fails the test if DORMOUSE_TEST_REQUIRE names a runtime that the engine lacks.
func dockerPlatforms(t *testing.T, needed bool) []platform {
	t.Helper()
	if testing.Short() {
		t.Skip("needs an engine, so it is left out with -short")
	}
	docker := engineHere("docker")
	if !docker.OK || !docker.Image {
		why := "no Docker engine with the sandbox image: " + docker.Why
		if needed || required("docker") {
			skipMissing(t, "docker", why)
		}
		t.Log("not tested on Docker: " + why)
		return nil
	}
	var found []platform
	for _, runtime := range []string{"runc", "runsc"} {
		if slices.Contains(docker.Runtimes, runtime) {
			found = append(found, platform{"docker-" + runtime, runtime, []string{"DORMOUSE_ENGINE=docker", "DORMOUSE_RUNTIME=" + runtime}})
		} else if required(runtime) {
			t.Fatalf("DORMOUSE_TEST_REQUIRE names the runtime %s, and the Docker engine has only %v", runtime, docker.Runtimes)
		}
	}
	return found
}

// needsEngine skips a test if this machine has no platform.
func needsEngine(t *testing.T) { t.Helper(); platforms(t) }

// needsDocker skips a test if this machine has no Docker engine.
func needsDocker(t *testing.T) { t.Helper(); dockerPlatforms(t, true) }

func skipMissing(t *testing.T, part, why string) {
	t.Helper()
	if required(part) {
		t.Fatalf("DORMOUSE_TEST_REQUIRE names %s: %s", part, why)
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

// engineHere returns the report of dormouse doctor about an engine of this machine. It runs doctor only once for each engine
// and stores the report in engines.
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

// home is a DORMOUSE_HOME, with the environment variables for the dormouse commands that use it. At the end of the test,
// newHome's cleanup deletes the home's sandboxes and stops its daemon.
type home struct {
	t   *testing.T
	dir string
	env []string
	cwd string // the working directory of runWithEnv's commands; empty for the repository's root
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

// removeAll deletes every sandbox of the home, so that a test leaves no container behind.
func (h *home) removeAll() {
	out, _, _ := h.run("", "ls", "--json")
	var sandboxes []struct {
		ID string `json:"id"`
	}
	if json.Unmarshal([]byte(out), &sandboxes) != nil {
		return
	}
	for _, b := range sandboxes {
		h.run("", "rm", b.ID)
	}
}

// run runs a dormouse command with the home's environment. It returns the output and the exit status of the command.
func (h *home) run(stdin string, arg ...string) (stdout, stderr string, status int) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
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

// pid returns the process id in the home's file sandboxd.pid, or 0 if there is no such file.
func (h *home) pid() int {
	text, err := os.ReadFile(filepath.Join(h.dir, "sandboxd.pid"))
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return pid
}

// stop sends the daemon a signal and waits until the process has ended and its socket accepts no connections.
func (h *home) stop(sig syscall.Signal) {
	pid := h.pid()
	if pid == 0 {
		return
	}
	p, _ := os.FindProcess(pid)
	_ = p.Signal(sig)
	eventually(h.t, "the daemon ends", func() bool { return !alive(pid) && !h.listens() })
}

// listens reports whether the daemon's socket accepts connections. Just after the daemon was killed, its last threads may
// still hold the socket.
func (h *home) listens() bool {
	conn, err := net.Dial("unix", filepath.Join(h.dir, "sandboxd.sock"))
	if err == nil {
		conn.Close()
	}
	return err == nil
}

// alive reports whether a process runs. It returns false for a zombie: if the test itself is the parent, a process that has
// ended remains as a zombie.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return syscall.Kill(pid, 0) == nil && !os.IsNotExist(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// eventually waits until ok returns true. It fails the test after three minutes, which is long even on a busy machine.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	const limit = 3 * time.Minute
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

// session is an MCP session for the test t, to which its methods report failures.
type session struct {
	*mcpclient.Session
	t   *testing.T
	ctx context.Context
}

func (h *home) connect(t *testing.T, arg ...string) session {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	t.Cleanup(cancel)
	s, err := mcpclient.Start(ctx, binary, h.env, arg...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return session{s, t, ctx}
}

// with returns the same session for the subtest t, to which the returned session reports failures.
func (s session) with(t *testing.T) session { return session{s.Session, t, s.ctx} }

// call calls a tool and returns its answer. The answer may be a tool error, which does not fail the test.
func (s session) call(tool string, a args) mcpclient.Answer {
	s.t.Helper()
	r, err := s.Call(s.ctx, tool, a)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// ok calls a tool and fails the test if the tool returns an error.
func (s session) ok(tool string, a args) mcpclient.Answer {
	s.t.Helper()
	r := s.call(tool, a)
	if r.IsError {
		s.t.Fatalf("%s: %s", tool, r.Text)
	}
	return r
}

// refused calls a tool and fails the test unless the tool returns an error that contains each of the given words.
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
		s.t.Fatalf("create_sandbox returned the id %q, want sbx_…", id)
	}
	return id
}

// run runs code in a sandbox and fails the test unless the answer contains each of the given words.
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
			s.t.Errorf("the answer does not contain %q:\n%.3000s", w, text)
		}
	}
}

var epochWords = regexp.MustCompile(`kernel_epoch (\d+)`)

// epochOf returns the kernel_epoch that the text of an answer contains.
func epochOf(t *testing.T, text string) int {
	t.Helper()
	m := epochWords.FindStringSubmatch(text)
	if m == nil {
		t.Errorf("the answer contains no kernel_epoch:\n%s", text)
		return 0
	}
	n, _ := strconv.Atoi(m[1])
	return n
}
