//go:build linux

package docker_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/docker"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/enginetest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// private is a Docker engine that belongs to one test, which can kill it.
type private struct {
	t    *testing.T
	dir  string
	args []string
	cmd  *exec.Cmd
}

func newPrivateEngine(t *testing.T, runsc string) *private {
	t.Helper()
	if testing.Short() {
		t.Skip("needs an engine: not with -short")
	}
	if _, err := exec.LookPath("dockerd"); err != nil || os.Geteuid() != 0 {
		skipWithout(t, "dockerd", "the test starts an engine of its own, which needs root, and dockerd in PATH")
	}
	dir, err := os.MkdirTemp(filepath.Split(privateDirs))
	if err != nil {
		t.Fatal(err)
	}
	p := &private{t: t, dir: dir, args: []string{"--iptables=false", "--ip6tables=false", "--bridge=none", "--experimental", "--live-restore",
		"--add-runtime=runsc=" + runsc, "--host=" + "unix://" + dir + "/docker.sock", "--data-root=" + dir + "/data",
		"--exec-root=" + dir + "/exec", "--pidfile=" + dir + "/docker.pid"}}
	t.Cleanup(func() {
		p.removeAll()
		p.stop(syscall.SIGTERM)
		p.killForgottenProcesses()
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Logf("the engine's log ends with\n%s", log[max(0, len(log)-4000):])
		}
		p.unmount()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := p.start(); err != nil {
		skipWithout(t, "dockerd", err)
	}
	return p
}

// removeAll removes all containers, because they continue to run without their engine.
func (p *private) removeAll() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.t.Context()), time.Minute)
	defer cancel()
	e, err := docker.New(ctx, docker.Config{Home: "test", Host: p.host()})
	if err != nil {
		p.t.Log(err)
		return
	}
	defer e.Close()
	list, _ := e.List(ctx)
	for _, c := range list {
		_ = e.Remove(ctx, c.ID)
	}
}

// killForgottenProcesses kills the processes of containers that a killed engine no longer manages. It repeats this for
// at most a minute, because these processes can start others before they are killed.
func (p *private) killForgottenProcesses() {
	for end := time.Now().Add(time.Minute); p.killOnce() > 0 && time.Now().Before(end); {
		time.Sleep(100 * time.Millisecond)
	}
}

// killOnce kills the processes whose command lines name files in this private engine's folder, and returns how many it
// killed.
func (p *private) killOnce() (killed int) {
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		p.t.Error(err)
	}
	for _, line := range lines {
		command, _ := os.ReadFile(line) // the process may have ended
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(line)))
		if err != nil || !bytes.Contains(command, []byte(p.dir+"/")) {
			continue
		}
		name, _, _ := bytes.Cut(command, []byte{0})
		p.t.Logf("killed a process of a container that the engine no longer manages: %d, %s", pid, name)
		_ = syscall.Kill(pid, syscall.SIGKILL)
		killed++
	}
	return killed
}

// unmount removes the mounts in this private engine's folder that the engine has left because it was killed.
func (p *private) unmount() {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		p.t.Error(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if at := strings.Fields(line)[1]; strings.HasPrefix(at, p.dir+"/") {
			_ = syscall.Unmount(at, syscall.MNT_DETACH)
		}
	}
}

func (p *private) start() error {
	log, err := os.OpenFile(filepath.Join(p.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	// A killed engine leaves these files. The pids in them may belong to other processes by now, or to zombies, which the
	// new engine must not take for a running engine or containerd.
	_ = os.Remove(filepath.Join(p.dir, "docker.pid"))
	_ = os.Remove(p.containerd())
	p.cmd = exec.Command("dockerd", p.args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		e, err := docker.New(p.t.Context(), docker.Config{Home: "test", Host: p.host()})
		if err == nil {
			return e.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the engine does not start: %w", err)
		}
	}
}

// stop stops the engine with a signal. If the signal is SIGKILL, stop also kills the engine's containerd.
func (p *private) stop(sig syscall.Signal) {
	_ = p.cmd.Process.Signal(sig)
	_ = p.cmd.Wait()
	text, _ := os.ReadFile(p.containerd())
	if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && sig == syscall.SIGKILL {
		_ = syscall.Kill(pid, sig)
	}
}

func (p *private) containerd() string { return filepath.Join(p.dir, "exec/containerd/containerd.pid") }

func (p *private) host() string { return "unix://" + p.dir + "/docker.sock" }

// open opens the private engine. All calls use the same home.
func (p *private) open(t *testing.T, guest engine.Bundle, runtime string) *docker.Engine {
	t.Helper()
	e, err := docker.New(t.Context(), docker.Config{Home: "test", Host: p.host(), Bundle: guest, Runtime: runtime})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

const emptyImage = "dormouse-test-empty:1"

func importEmpty(t *testing.T, e *docker.Engine) {
	t.Helper()
	var root bytes.Buffer
	archive := tar.NewWriter(&root)
	err := errors.Join(archive.WriteHeader(&tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755}), archive.Close(),
		e.ImportImage(t.Context(), &root, emptyImage))
	if err != nil {
		t.Fatal(err)
	}
}

// count increments the counter of the guest and returns all values that the counter has had, such as "1 2 ".
func count(t *testing.T, e *docker.Engine, id sandbox.ID) string {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return e.Dial(ctx, id) }}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport, Timeout: time.Minute}).Post("http://guest/count", "", nil)
	if err != nil {
		t.Errorf("count: %v", err)
		return ""
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("count: %v", err)
	}
	return string(text)
}

func builtRunsc(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../../bin/runsc")
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		skipWithout(t, "runsc", "`make build` makes it")
	}
	return path
}

// TestSandboxesSurviveAKilledEngine checks that running and suspended sandboxes survive a kill -9 of the engine at any
// time. It does not run in parallel with other tests: while the containerd of one test's engine ends, docker.New in
// another test can take that containerd for one with a file system of its own, and then returns an Engine that does not
// suspend to disk.
func TestSandboxesSurviveAKilledEngine(t *testing.T) {
	p := newPrivateEngine(t, builtRunsc(t))
	guest := enginetest.Probe(t)
	importEmpty(t, p.open(t, nil, "runc"))
	ms := time.Millisecond
	nothing := func(*docker.Engine, context.Context, sandbox.ID) error { return nil }
	for _, tt := range []struct {
		name       string
		runtime    string
		suspended  bool
		action     func(*docker.Engine, context.Context, sandbox.ID) error
		killDelays []time.Duration // how long after the call of action the engine is killed; 0 if the call does nothing
		mayBeStuck bool            // the sandbox may be left in a state in which it can't be resumed
	}{
		{"a running sandbox", "runc", false, nothing, []time.Duration{0}, false},
		{"a paused sandbox", "runc", true, nothing, []time.Duration{0}, false},
		{"a running sandbox", "runsc", false, nothing, []time.Duration{0}, false},
		{"a suspended sandbox", "runsc", true, nothing, []time.Duration{0}, false},
		{"a sandbox that is being suspended", "runsc", false, (*docker.Engine).Suspend, []time.Duration{10 * ms, 40 * ms, 80 * ms, 150 * ms, 300 * ms}, true},
		{"a sandbox that is being resumed", "runsc", true, (*docker.Engine).Resume, []time.Duration{10 * ms, 50 * ms, 100 * ms, 200 * ms, 400 * ms}, true},
	} {
		t.Run(tt.name+" with "+tt.runtime, func(t *testing.T) {
			for _, after := range tt.killDelays {
				e, s := p.open(t, guest, tt.runtime), spec(emptyImage)
				if err := e.Create(t.Context(), s); err != nil {
					t.Fatal(err)
				}
				if got := e.Info().Suspend; tt.runtime == "runsc" && got != engine.ToDisk {
					t.Fatalf("the engine suspends to %q, want disk", got)
				}
				count(t, e, s.ID)
				containerID, err := e.ContainerOf(t.Context(), s.ID)
				if err != nil {
					t.Fatal(err)
				}
				if tt.suspended {
					if err := e.Suspend(t.Context(), s.ID); err != nil {
						t.Fatal(err)
					}
				}
				done := make(chan error, 1)
				go func() { done <- tt.action(e, t.Context(), s.ID) }()
				time.Sleep(after)
				p.stop(syscall.SIGKILL)
				if err := p.start(); err != nil {
					t.Fatal(err)
				}
				t.Logf("engine killed after %v; the call returned %v", after, <-done)
				if err := e.Close(); err != nil { // a new Engine replaces e, as after a restart of the daemon
					t.Error(err)
				}
				e = p.open(t, guest, tt.runtime)
				list, err := e.List(t.Context())
				if err != nil || len(list) != 1 || list[0].Running == list[0].Suspended || after == 0 && list[0].Suspended != tt.suspended {
					t.Errorf("List() = %+v, %v, want one sandbox that is running or suspended as before", list, err)
				}
				t.Logf("%+v", list)
				err = e.Resume(t.Context(), s.ID)
				if tt.mayBeStuck && err == nil { // gVisor continues to save without Docker, and can freeze the sandbox after Resume has found it running
					var conn net.Conn
					if conn, err = e.Dial(t.Context(), s.ID); err == nil {
						conn.Close()
					}
				}
				if tt.mayBeStuck && err != nil {
					// If Docker died while gVisor saved the sandbox, the sandbox can stay frozen, and Docker can
					// neither unpause nor kill it at once. If Docker died while gVisor restored the sandbox, containerd
					// can be left with a part of the container, and then does not start it again. In both cases, Resume
					// returns an error, but Remove succeeds after some time.
					t.Logf("the sandbox is stuck: %v", err)
					eventually(t, time.Minute, func() error { return e.Remove(t.Context(), s.ID) })
					noCopies(t, containerID)
					continue
				}
				if err != nil {
					t.Errorf("Resume: %v", err)
				}
				if got := count(t, e, s.ID); got != "1 2 " {
					t.Errorf("counter = %q, want 1 2", got)
				}
				// Suspend may fail as unavailable, because some engines can't save a sandbox that was running when the
				// engine started. The sandbox then continues to run.
				err = e.Suspend(t.Context(), s.ID)
				if err != nil {
					t.Logf("second Suspend: %v", err)
				}
				if err != nil && sandbox.KindOf(err) != sandbox.Unavailable {
					t.Errorf("Suspend: %v", err)
				}
				if err := e.Resume(t.Context(), s.ID); err != nil {
					t.Errorf("Resume: %v", err)
				}
				if got := count(t, e, s.ID); got != "1 2 3 " {
					t.Errorf("counter = %q, want 1 2 3", got)
				}
				if err := e.Remove(t.Context(), s.ID); err != nil {
					t.Errorf("Remove: %v", err)
				}
				noCopies(t, containerID)
			}
		})
	}
}

// eventually calls a function every second until it succeeds. It fails the test if the function still fails after the
// given duration.
func eventually(t *testing.T, within time.Duration, do func() error) {
	t.Helper()
	err := do()
	for end := time.Now().Add(within); err != nil && time.Now().Before(end); err = do() {
		time.Sleep(time.Second)
	}
	if err != nil {
		t.Errorf("still fails after %v: %v", within, err)
	}
}
