//go:build unix

package sandboxd_test

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd"
	"github.com/dormouse-sandbox/dormouse/sandboxd/api"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// run runs a daemon until the test ends or end is called.
func run(t *testing.T, home string) (c *api.Client, end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- sandboxd.Run(ctx, config(home)) }()
	c = api.Dial(sandboxd.SocketPath(home))
	eventually(t, "the daemon answers", func() bool {
		select {
		case err := <-done:
			t.Fatalf("Run() = %v", err)
		default:
		}
		return c.Healthy(t.Context()) == nil
	})
	ended := false
	end = func() {
		cancel()
		if !ended {
			ended = true
			if err := <-done; err != nil {
				t.Errorf("Run() = %v", err)
			}
		}
	}
	t.Cleanup(func() { c.Close(); end() })
	return c, end
}

// TestRun checks that a daemon serves on a socket that only its user can access, also without an engine, and that it removes
// its socket and its pid file when it ends.
func TestRun(t *testing.T) {
	home := newHome(t)
	c, end := run(t, home)
	socket, pid := sandboxd.SocketPath(home), filepath.Join(home, "sandboxd.pid")
	for path, want := range map[string]fs.FileMode{home: 0o700, socket: 0o600, pid: 0o600, filepath.Join(home, "home.id"): 0o600} {
		if got := mode(t, path); got != want {
			t.Errorf("mode of %s = %o, want %o", path, got, want)
		}
	}
	if got := pidOf(t, home); got != os.Getpid() {
		t.Errorf("pid = %d, want %d", got, os.Getpid())
	}
	info, err := c.Info(t.Context())
	must(t, err)
	if info.Version != "1.2.3" || info.Why != errNoEngine.Message || info.Limits.Sandboxes == 0 || info.Defaults.Image == "" {
		t.Errorf("Info() = %+v", info)
	}
	if err := c.Ready(t.Context()); sandbox.KindOf(err) != sandbox.Unavailable {
		t.Errorf("Ready() = %v, want unavailable", err)
	}
	if _, err := c.Create(t.Context(), sandbox.CreateRequest{}); sandbox.KindOf(err) != sandbox.Unavailable || !strings.Contains(err.Error(), "start one") {
		t.Errorf("Create() = %v, want the engine's reason", err)
	}
	if _, err := c.List(t.Context(), sandbox.ListRequest{}); err != nil {
		t.Errorf("List() = %v", err)
	}

	end()
	for _, path := range []string{socket, pid} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there (%v)", path, err)
		}
	}
	if err := c.Healthy(t.Context()); !errors.Is(err, api.ErrNotRunning) {
		t.Errorf("Healthy() after the end = %v, want ErrNotRunning", err)
	}
}

// TestS13_SecondDaemon checks that a second daemon in a home fails with the pid of the first, and that a daemon in another
// home can run at the same time.
func TestS13_SecondDaemon(t *testing.T) {
	home := newHome(t)
	c, _ := run(t, home)
	err := sandboxd.Run(t.Context(), config(home))
	if !errors.Is(err, sandboxd.ErrRunning) || !strings.Contains(err.Error(), "pid "+strconv.Itoa(os.Getpid())) {
		t.Errorf("Run() = %v, want ErrRunning with the pid", err)
	}
	must(t, c.Healthy(t.Context())) // the first daemon still works
	pidOf(t, home)
	run(t, newHome(t))
}

// TestStaleSocket checks that a daemon replaces the socket of a killed daemon, but does not remove a file that is not a
// socket.
func TestStaleSocket(t *testing.T) {
	home := newHome(t)
	must(t, os.Mkdir(home, 0o700))
	socket := sandboxd.SocketPath(home)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	must(t, err)
	l.SetUnlinkOnClose(false)
	must(t, l.Close())
	must(t, os.WriteFile(filepath.Join(home, "sandboxd.pid"), []byte("1\n"), 0o600))
	_, end := run(t, home)
	end()

	must(t, os.WriteFile(socket, []byte("precious"), 0o600))
	if err := sandboxd.Run(t.Context(), config(home)); sandbox.KindOf(err) != sandbox.Unavailable || !strings.Contains(err.Error(), "in the way") {
		t.Errorf("Run() = %v, want that a file is in the way", err)
	}
	text, err := os.ReadFile(socket)
	must(t, err)
	if string(text) != "precious" {
		t.Errorf("the file now has %q", text)
	}
}

// TestHomeID checks that the id of a home does not change, and that a damaged id is not replaced.
func TestHomeID(t *testing.T) {
	home := newHome(t)
	path := filepath.Join(home, "home.id")
	var ids []string
	for range 2 {
		d, err := sandboxd.Open(t.Context(), config(home))
		must(t, err)
		text, err := os.ReadFile(path)
		must(t, err)
		ids = append(ids, string(text))
		must(t, d.Close())
	}
	if ids[0] != ids[1] || len(ids[0]) != 37 {
		t.Errorf("ids = %q, want the same twice", ids)
	}
	must(t, os.WriteFile(path, []byte("x"), 0o600))
	if _, err := sandboxd.Open(t.Context(), config(home)); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("Open() = %v, want that the id is damaged", err)
	}
}
