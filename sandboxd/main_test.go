//go:build unix

package sandboxd_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// failVar is the environment variable that makes the test daemon print the variable's value and exit.
const failVar = "SANDBOXD_TEST_FAIL"

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
	cfg := config(strings.TrimPrefix(os.Args[2], "--home="))
	if err := sandboxd.Run(context.Background(), cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

var errNoEngine = sandbox.Errorf(sandbox.Unavailable, "no engine answers: start one")

// config returns the configuration of a daemon whose engine cannot be opened. The tests of this package need no engine.
func config(home string) sandboxd.Config {
	return sandboxd.Config{Home: home, Version: "1.2.3", DefaultImage: "an-image:1", Logger: slog.New(slog.DiscardHandler)}.
		WithEngine(func(context.Context) (engine.Engine, error) { return nil, errNoEngine })
}

// newHome returns a path for a home that is short enough for a socket. The home is removed after the test.
func newHome(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		os.RemoveAll(dir)
	})
	return filepath.Join(dir, "home")
}

func pidOf(t *testing.T, home string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(home, "sandboxd.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// stop sends a signal to a daemon that Connect started, and waits until the process has ended.
func stop(t *testing.T, home string, sig syscall.Signal) {
	t.Helper()
	pid := pidOf(t, home)
	if pid == os.Getpid() {
		t.Fatal("the daemon is this process")
	}
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the daemon ends", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("waited for ever: %s", what)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Lstat(path)
	must(t, err)
	return info.Mode().Perm()
}
