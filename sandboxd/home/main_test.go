//go:build unix

package home_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/api"
	"github.com/dormouse-sandbox/dormouse/sandboxd/home"
	"github.com/dormouse-sandbox/dormouse/sandboxd/home/hometest"
)

// Environment variables of the daemons that Connect starts in the tests.
const (
	failVar      = "HOME_TEST_FAIL"      // the daemon prints the variable's value and exits
	noEngineVar  = "HOME_TEST_NO_ENGINE" // the daemon reports that it has no engine and that clients may replace it
	daemonOfTest = "1.2.3"               // the version that the daemon reports
)

// TestMain runs the tests. If the test program was started as `sandboxd --home=…`, TestMain runs a daemon instead, because
// Connect starts this program as the daemon.
func TestMain(m *testing.M) {
	if len(os.Args) < 3 || os.Args[1] != "sandboxd" {
		os.Exit(m.Run())
	}
	if why := os.Getenv(failVar); why != "" {
		fmt.Fprintln(os.Stderr, why)
		os.Exit(3)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := runDaemon(ctx, strings.TrimPrefix(os.Args[2], "--home=")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// runDaemon runs a daemon that only describes itself, until ctx ends.
func runDaemon(ctx context.Context, dir string) (err error) {
	if err := home.Prepare(dir); err != nil {
		return err
	}
	lock, err := home.Acquire(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	if err := lock.WritePid(); err != nil {
		return err
	}
	l, err := lock.Listen(slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	info, err := json.Marshal(api.Info{Version: daemonOfTest, Replaceable: os.Getenv(noEngineVar) != ""})
	if err != nil {
		return err
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(info)
	})}
	defer context.AfterFunc(ctx, func() { s.Close() })()
	if err := s.Serve(l); ctx.Err() == nil {
		return err
	}
	return nil
}

// run runs a daemon in this process until the test ends or end is called.
func run(t *testing.T, dir string) (c *api.Client, end func()) {
	t.Helper()
	return hometest.Start(t, dir, func(ctx context.Context) error { return runDaemon(ctx, dir) })
}

// acquire prepares and locks a home until the test ends.
func acquire(t *testing.T, dir string) *home.Lock {
	t.Helper()
	must(t, home.Prepare(dir))
	lock, err := home.Acquire(t.Context(), dir)
	must(t, err)
	t.Cleanup(func() { lock.Release() })
	return lock
}

// stop sends a signal to a daemon that Connect started, and waits until the process has ended.
func stop(t *testing.T, dir string, sig syscall.Signal) {
	t.Helper()
	pid := hometest.Pid(t, dir)
	if pid == os.Getpid() {
		t.Fatal("the pid file has the pid of the test, want that of a daemon that Connect started")
	}
	must(t, syscall.Kill(pid, sig))
	awaitEnd(t, pid)
}

// awaitEnd waits until a process has ended and Connect has collected its exit status.
func awaitEnd(t *testing.T, pid int) {
	t.Helper()
	for until := time.Now().Add(time.Minute); !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("process %d has not ended after a minute", pid)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
