//go:build unix

package sandboxd_test

import (
	"context"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

var errNoEngine = sandbox.Errorf(sandbox.Unavailable, "no engine answers: start one")

// config returns the configuration of a daemon whose engine cannot be opened. The tests of this package need no engine.
func config(dir string) sandboxd.Config {
	return sandboxd.Config{Settings: sandboxd.Settings{Home: dir, Image: "an-image:1"}, Version: "1.2.3", Logger: slog.New(slog.DiscardHandler)}.
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

func pidOf(t *testing.T, dir string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "sandboxd.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("did not happen within a minute: %s", what)
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
