//go:build unix

package sandboxd_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dormouse-sandbox/dormouse/sandboxd"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestConnect checks that of many concurrent callers only one starts a daemon and all reach that daemon, that a later caller
// uses the same daemon, and that a client starts a new daemon after its daemon was killed.
func TestConnect(t *testing.T) {
	home := newHome(t)
	var all sync.WaitGroup
	var mu sync.Mutex
	started := 0
	for range 8 {
		all.Go(func() {
			c, s, err := sandboxd.Connect(t.Context(), home, os.Args[0])
			if err != nil {
				t.Errorf("Connect() = %v", err)
				return
			}
			defer c.Close()
			mu.Lock()
			defer mu.Unlock()
			if s {
				started++
			}
			if err := c.Healthy(t.Context()); err != nil {
				t.Errorf("Healthy() = %v", err)
			}
		})
	}
	all.Wait()
	if started != 1 {
		t.Errorf("%d daemons were started, want 1", started)
	}
	if t.Failed() {
		return
	}
	first := pidOf(t, home)
	c, again, err := sandboxd.Connect(t.Context(), home, "/no/such/program")
	must(t, err)
	if again {
		t.Error("a daemon was started where one runs")
	}
	var log strings.Builder
	for _, version := range []string{"1.2.3", "9"} {
		sandboxd.WarnSkew(t.Context(), c, version, slog.New(slog.NewTextHandler(&log, nil)))
	}
	if strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), "this=9") {
		t.Errorf("log = %s, want one warning", log.String())
	}

	stop(t, home, syscall.SIGKILL)
	_, again, err = sandboxd.Connect(t.Context(), home, os.Args[0])
	must(t, err)
	if !again || pidOf(t, home) == first {
		t.Error("the killed daemon was not started again")
	}
	if sid, err := unix.Getsid(pidOf(t, home)); err != nil || sid != pidOf(t, home) {
		t.Errorf("the daemon's session is %d (%v), want its own", sid, err)
	}
	stop(t, home, syscall.SIGTERM)
	if _, err := os.Stat(filepath.Join(home, "sandboxd.pid")); err == nil {
		t.Error("the pid outlived the daemon")
	}
}

// TestConnectFails checks that the error contains the output of a daemon that failed to start, without characters that
// control a terminal.
func TestConnectFails(t *testing.T) {
	home := newHome(t)
	must(t, os.Mkdir(home, 0o700))
	must(t, os.WriteFile(filepath.Join(home, "sandboxd.log"), []byte("an old line\n"), 0o600))
	t.Setenv(failVar, "the disk is full\x1b[31m")
	_, _, err := sandboxd.Connect(t.Context(), home, os.Args[0])
	if sandbox.KindOf(err) != sandbox.Unavailable {
		t.Fatalf("Connect() = %v, want unavailable", err)
	}
	if text := err.Error(); !strings.Contains(text, "exit status 3") || !strings.Contains(text, "the disk is full?") || strings.Contains(text, "old line") {
		t.Errorf("Connect() = %q, want its last words and no others", text)
	}
	if _, _, err := sandboxd.Connect(t.Context(), home, "/no/such/program"); sandbox.KindOf(err) != sandbox.Unavailable {
		t.Errorf("Connect() = %v, want unavailable", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := sandboxd.Connect(ctx, home, os.Args[0]); !errors.Is(err, context.Canceled) {
		t.Errorf("Connect() = %v, want canceled", err)
	}
}

// TestLogRotates checks that openLog renames a log file above the size limit and begins a new one.
func TestLogRotates(t *testing.T) {
	home := newHome(t)
	must(t, os.Mkdir(home, 0o700))
	path := filepath.Join(home, "sandboxd.log")
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, os.Truncate(path, 11<<20))
	_, _, err := sandboxd.Connect(t.Context(), home, os.Args[0])
	must(t, err)
	stop(t, home, syscall.SIGTERM)
	old, err := os.Stat(path + ".1")
	must(t, err)
	now, err := os.Stat(path)
	must(t, err)
	if old.Size() != 11<<20 || now.Size() > 1<<20 || now.Mode().Perm() != 0o600 {
		t.Errorf("logs have %d and %d bytes", old.Size(), now.Size())
	}
}
