//go:build unix

package home_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dormouse-sandbox/dormouse/sandboxd/home"
	"github.com/dormouse-sandbox/dormouse/sandboxd/home/hometest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestConnect checks that only one of many concurrent callers starts a daemon, and that all of them reach it. A later caller
// must use the same daemon. A client must start a new daemon after its daemon was killed.
func TestConnect(t *testing.T) {
	dir := hometest.New(t)
	var all sync.WaitGroup
	var mu sync.Mutex
	started := 0
	for range 8 {
		all.Go(func() {
			c, s, err := home.Connect(t.Context(), dir, os.Args[0])
			if err != nil {
				t.Errorf("Connect() = %v, want nil", err)
				return
			}
			defer c.Close()
			mu.Lock()
			defer mu.Unlock()
			if s {
				started++
			}
			if err := c.Healthy(t.Context()); err != nil {
				t.Errorf("Healthy() = %v, want nil", err)
			}
		})
	}
	all.Wait()
	if started != 1 {
		t.Errorf("%d callers started a daemon, want 1", started)
	}
	if t.Failed() {
		return
	}
	first := hometest.Pid(t, dir)
	c, again, err := home.Connect(t.Context(), dir, "/no/such/program")
	must(t, err)
	if again {
		t.Error("Connect() started a second daemon, want that it uses the first")
	}
	var log strings.Builder
	for _, version := range []string{daemonOfTest, "9"} {
		home.WarnSkew(t.Context(), c, version, slog.New(slog.NewTextHandler(&log, nil)))
	}
	if strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), "this=9") {
		t.Errorf("log = %s, want one warning", log.String())
	}

	stop(t, dir, syscall.SIGKILL)
	_, again, err = home.Connect(t.Context(), dir, os.Args[0])
	must(t, err)
	if !again || hometest.Pid(t, dir) == first {
		t.Errorf("after the daemon was killed, Connect() started a daemon: %t, pid %d; want a new daemon", again, hometest.Pid(t, dir))
	}
	if sid, err := unix.Getsid(hometest.Pid(t, dir)); err != nil || sid != hometest.Pid(t, dir) {
		t.Errorf("the daemon's session is %d (%v), want its own", sid, err)
	}
	stop(t, dir, syscall.SIGTERM)
	if _, err := os.Stat(filepath.Join(dir, "sandboxd.pid")); err == nil {
		t.Error("the pid file still exists after the daemon stopped")
	}
}

// TestConnectFails checks that the error contains the output of a daemon that failed to start, without characters that
// control a terminal.
func TestConnectFails(t *testing.T) {
	dir := hometest.New(t)
	must(t, os.Mkdir(dir, 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "sandboxd.log"), []byte("an old line\n"), 0o600))
	t.Setenv(failVar, "the disk is full\x1b[31m")
	_, _, err := home.Connect(t.Context(), dir, os.Args[0])
	if sandbox.KindOf(err) != sandbox.Unavailable {
		t.Fatalf("Connect() = %v, want unavailable", err)
	}
	if text := err.Error(); !strings.Contains(text, "exit status 3") || !strings.Contains(text, "the disk is full?") || strings.Contains(text, "old line") {
		t.Errorf("Connect() = %q, want the exit status and the new lines of the log", text)
	}
	if _, _, err := home.Connect(t.Context(), dir, "/no/such/program"); sandbox.KindOf(err) != sandbox.Unavailable {
		t.Errorf("Connect() = %v, want unavailable", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := home.Connect(ctx, dir, os.Args[0]); !errors.Is(err, context.Canceled) {
		t.Errorf("Connect() = %v, want canceled", err)
	}
}

// TestLogRotates checks that openLog renames a log file above the size limit and begins a new one.
func TestLogRotates(t *testing.T) {
	dir := hometest.New(t)
	must(t, os.Mkdir(dir, 0o700))
	path := filepath.Join(dir, "sandboxd.log")
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, os.Truncate(path, 11<<20))
	_, _, err := home.Connect(t.Context(), dir, os.Args[0])
	must(t, err)
	stop(t, dir, syscall.SIGTERM)
	old, err := os.Stat(path + ".1")
	must(t, err)
	now, err := os.Stat(path)
	must(t, err)
	if old.Size() != 11<<20 || now.Size() > 1<<20 || now.Mode().Perm() != 0o600 {
		t.Errorf("the old log has %d bytes, the new log %d bytes and mode %o; want %d, at most %d, and 600", old.Size(), now.Size(), now.Mode().Perm(), 11<<20, 1<<20)
	}
}

// TestReplaceStopsOnlyTheDaemon checks that Connect replaces a daemon without an engine. If the pid file contains the pid of
// another process, Connect must not signal that process.
func TestReplaceStopsOnlyTheDaemon(t *testing.T) {
	dir := hometest.New(t)
	t.Setenv(noEngineVar, "1")
	_, _, err := home.Connect(t.Context(), dir, os.Args[0])
	must(t, err)
	daemon := hometest.Pid(t, dir)

	bystander := exec.Command("sleep", "1000")
	must(t, bystander.Start())
	defer bystander.Process.Kill()
	exited := make(chan error, 1)
	go func() { exited <- bystander.Wait() }()
	must(t, os.WriteFile(filepath.Join(dir, "sandboxd.pid"), []byte(strconv.Itoa(bystander.Process.Pid)+"\n"), 0o600))

	t.Setenv(noEngineVar, "")
	_, started, err := home.Connect(t.Context(), dir, os.Args[0])
	must(t, err)
	if !started {
		t.Error("Connect() did not replace the daemon without an engine")
	}
	awaitEnd(t, daemon)
	select {
	case err := <-exited:
		t.Errorf("the process in the pid file ended (%v), want that Connect() does not signal it", err)
	default:
	}
	stop(t, dir, syscall.SIGTERM)
}
