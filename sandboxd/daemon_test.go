//go:build unix

package sandboxd_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd"
	"github.com/dormouse-sandbox/dormouse/sandboxd/api"
	"github.com/dormouse-sandbox/dormouse/sandboxd/home"
	"github.com/dormouse-sandbox/dormouse/sandboxd/home/hometest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// run runs a daemon until the test ends or end is called.
func run(t *testing.T, dir string) (c *api.Client, end func()) {
	t.Helper()
	return hometest.Start(t, dir, func(ctx context.Context) error { return sandboxd.Run(ctx, config(dir)) })
}

// TestRun checks that a daemon serves on a socket that only its user can access, even if no engine works. When it ends,
// the daemon must remove the socket and its pid file.
func TestRun(t *testing.T) {
	dir := hometest.New(t)
	c, end := run(t, dir)
	socket, pid := home.SocketPath(dir), filepath.Join(dir, "sandboxd.pid")
	for path, want := range map[string]fs.FileMode{dir: 0o700, socket: 0o600, pid: 0o600, filepath.Join(dir, "home.id"): 0o600} {
		if got := hometest.Mode(t, path); got != want {
			t.Errorf("mode of %s = %o, want %o", path, got, want)
		}
	}
	if got := hometest.Pid(t, dir); got != os.Getpid() {
		t.Errorf("pid = %d, want %d", got, os.Getpid())
	}
	info, err := c.Info(t.Context())
	must(t, err)
	if info.Version != "1.2.3" || info.Why != errNoEngine.Message || info.Limits.Sandboxes == 0 || info.Defaults.Image == "" {
		t.Errorf("Info() = %+v, want version 1.2.3, the reason %q, and the limits and the image of the config", info, errNoEngine.Message)
	}
	if err := c.Ready(t.Context()); sandbox.KindOf(err) != sandbox.Unavailable {
		t.Errorf("Ready() = %v, want unavailable", err)
	}
	if _, err := c.Create(t.Context(), sandbox.CreateRequest{}); sandbox.KindOf(err) != sandbox.Unavailable || !strings.Contains(err.Error(), "start one") {
		t.Errorf("Create() = %v, want the engine's reason", err)
	}
	if _, err := c.List(t.Context(), sandbox.ListRequest{}); err != nil {
		t.Errorf("List() = %v, want success without an engine", err)
	}

	end()
	for _, path := range []string{socket, pid} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Lstat(%s) after the daemon ended = %v, want that it does not exist", path, err)
		}
	}
	if err := c.Healthy(t.Context()); !errors.Is(err, api.ErrNotRunning) {
		t.Errorf("Healthy() after the end = %v, want ErrNotRunning", err)
	}
}

// TestS13_SecondDaemon checks that a second daemon in a home fails with the pid of the first, and that a daemon in another
// home can run at the same time.
func TestS13_SecondDaemon(t *testing.T) {
	dir := hometest.New(t)
	c, _ := run(t, dir)
	err := sandboxd.Run(t.Context(), config(dir))
	if !errors.Is(err, home.ErrRunning) || !strings.Contains(err.Error(), "pid "+strconv.Itoa(os.Getpid())) {
		t.Errorf("Run() = %v, want ErrRunning with the pid", err)
	}
	must(t, c.Healthy(t.Context())) // the first daemon still works
	hometest.Pid(t, dir)            // and its pid file still exists
	run(t, hometest.New(t))
}
