//go:build unix

package e2e_test

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestDaemonKilled checks that no sandbox, no running execution and no output of an execution is lost if the daemon is killed.
func TestDaemonKilled(t *testing.T) {
	t.Parallel()
	for _, p := range platforms(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			h := newHome(t, p.env...)
			s := h.connect(t)
			id := s.create(args{"ttl": "1h"})
			s.run(id, "kept = 'kept'")
			r := s.exec(args{"sandbox_id": id, "wait_seconds": 1, "request_id": "long", "code": "import time\nfor i in range(8):\n    print('tick', i, flush=True)\n    time.sleep(.5)\n'all of it'"}, "running")
			short := s.create(nil)
			expires, err := time.Parse(time.RFC3339, s.ok("update_sandbox", args{"sandbox_id": short, "ttl": "2s"}).Structured["expire_time"].(string))
			if err != nil {
				t.Fatal(err)
			}

			h.stop(syscall.SIGKILL)
			time.Sleep(time.Until(expires)) // the second sandbox expires while no daemon runs

			s = h.connect(t)
			s.contains(s.ok("get_execution", args{"execution_id": executionID(t, r.Text), "wait_seconds": 20}).Text, "tick 0", "tick 7", "all of it", "succeeded")
			s.run(id, "kept", "kept")
			s.refused("execute_code", args{"sandbox_id": short, "code": "1"})
			again := s.exec(args{"sandbox_id": id, "request_id": "long", "code": "import time\nfor i in range(8):\n    print('tick', i, flush=True)\n    time.sleep(.5)\n'all of it'"}, "all of it")
			if executionID(t, again.Text) != executionID(t, r.Text) {
				t.Error("a retry with the same request_id ran the code again")
			}
		})
	}
}

// TestDaemonGoneUnderClient checks that, after the daemon has ended, a client's next call starts it again, and that the
// sandboxes still exist. If a client makes several calls at that moment, all of them must succeed.
func TestDaemonGoneUnderClient(t *testing.T) {
	t.Parallel()
	needsEngine(t)
	h := newHome(t)
	s := h.connect(t)
	id := s.create(nil)
	s.run(id, "kept = 'kept'")
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		before := h.pid()
		h.stop(sig)
		var calls sync.WaitGroup
		for range 4 {
			calls.Go(func() { s.with(t).run(id, "kept", "kept") })
		}
		calls.Wait()
		if h.pid() == before || !alive(h.pid()) {
			t.Errorf("after %v the daemon's pid is %d, want a running daemon with another pid than %d", sig, h.pid(), before)
		}
	}
}

// TestDaemonOutlivesClients checks that the daemon and its sandboxes keep running after the client that started the daemon has
// ended.
func TestDaemonOutlivesClients(t *testing.T) {
	t.Parallel()
	needsEngine(t)
	h := newHome(t)
	first := h.connect(t)
	id := first.create(nil)
	first.run(id, "x = 7")
	pid := h.pid()
	first.Close()
	h.connect(t).run(id, "x", "7")
	if h.pid() != pid {
		t.Errorf("the daemon's pid changed from %d to %d, want the same daemon", pid, h.pid())
	}
}

// TestConcurrentClientsStartOneDaemon checks that several clients that start at the same time start only one daemon.
func TestConcurrentClientsStartOneDaemon(t *testing.T) {
	t.Parallel()
	needsEngine(t)
	h := newHome(t)
	var started sync.WaitGroup
	for range 4 {
		started.Go(func() {
			if _, stderr, status := h.run("", "ls", "--json"); status != 0 {
				t.Errorf("ls exited with %d: %s", status, stderr)
			}
		})
	}
	started.Wait()
	out, _ := exec.Command("pgrep", "--full", "--count", "sandboxd --home="+h.dir).Output()
	if n := strings.TrimSpace(string(out)); n != "1" {
		t.Errorf("%s daemons run, want 1", n)
	}
}

// TestContainerRemovedByHand checks that, if a user removes the container of a sandbox with docker rm, the answers report that
// the sandbox is lost, not that it does not exist.
func TestContainerRemovedByHand(t *testing.T) {
	t.Parallel()
	needsDocker(t)
	if _, err := exec.LookPath("docker"); err != nil {
		skipMissing(t, "docker-cli", "needs the docker command")
	}
	h := newHome(t, "DORMOUSE_ENGINE=docker")
	s := h.connect(t)
	id := s.create(nil)
	s.run(id, "x = 1")
	out, err := exec.Command("docker", "ps", "--all", "--quiet", "--filter", "label=dormouse.sandbox="+id).Output()
	if err != nil || len(out) == 0 {
		t.Fatalf("docker ps: %q, %v", out, err)
	}
	if out, err := exec.Command("docker", "rm", "--force", strings.TrimSpace(string(out))).CombinedOutput(); err != nil {
		t.Fatalf("docker rm: %s", out)
	}
	s.refused("execute_code", args{"sandbox_id": id, "code": "x"}, "lost")
	s.contains(s.ok("get_sandbox", args{"sandbox_id": id}).Text, "terminated")
}

// TestEngineAway checks that errors name the engine while the engine does not answer, and that everything works as before when
// the engine answers again.
func TestEngineAway(t *testing.T) {
	t.Parallel()
	needsDocker(t)
	real := strings.TrimPrefix(os.Getenv("DOCKER_HOST"), "unix://")
	if real == "" {
		real = "/var/run/docker.sock"
	}
	if _, err := os.Stat(real); err != nil {
		t.Skipf("needs a Docker engine on a unix socket of this machine: %v", err)
	}
	socketProxy := newSocketProxy(t, real)
	h := newHome(t, "DORMOUSE_ENGINE=docker", "DOCKER_HOST=unix://"+socketProxy.path)
	s := h.connect(t)
	id := s.create(nil)
	s.run(id, "x = 'survived'")
	socketProxy.disconnect()
	s.refused("create_sandbox", nil, "engine")
	// A daemon that is root on the engine's machine connects to running sandboxes through the runtime. It does not need the
	// engine for this, so the call may succeed.
	if answer := s.call("execute_code", args{"sandbox_id": id, "code": "x"}); answer.IsError {
		s.contains(answer.Text, "engine")
	} else {
		s.contains(answer.Text, "survived")
	}
	socketProxy.open()
	s.run(id, "x", "survived")
	s.create(nil)
}

// socketProxy is a unix socket that forwards connections to the engine's socket. disconnect closes the socket and all
// connections; open opens the socket again.
type socketProxy struct {
	t          *testing.T
	path, real string
	mu         sync.Mutex
	listener   net.Listener
	conns      []net.Conn
}

func newSocketProxy(t *testing.T, real string) *socketProxy {
	dir, err := os.MkdirTemp("", "door")
	if err != nil {
		t.Fatal(err)
	}
	d := &socketProxy{t: t, path: filepath.Join(dir, "docker.sock"), real: real}
	d.open()
	t.Cleanup(func() { d.disconnect(); os.RemoveAll(dir) })
	return d
}

func (d *socketProxy) open() {
	l, err := net.Listen("unix", d.path)
	if err != nil {
		d.t.Fatal(err)
	}
	d.mu.Lock()
	d.listener = l
	d.mu.Unlock()
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("unix", d.real)
			if err != nil {
				in.Close()
				continue
			}
			d.mu.Lock()
			d.conns = append(d.conns, in, out)
			d.mu.Unlock()
			join := func(to, from net.Conn) {
				io.Copy(to, from)
				if half, ok := to.(interface{ CloseWrite() error }); ok {
					half.CloseWrite()
				}
			}
			go join(in, out)
			go join(out, in)
		}
	}()
}

func (d *socketProxy) disconnect() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.listener.Close()
	for _, c := range d.conns {
		c.Close()
	}
	d.conns = nil
}
