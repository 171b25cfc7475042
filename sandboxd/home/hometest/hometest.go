// Package hometest runs daemons in temporary homes, for the tests of packages home and sandboxd: [New] makes a home,
// [Start] runs a daemon in the process of the test, and [Pid] and [Mode] read what a daemon has left on disk.
package hometest

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/api"
	"github.com/dormouse-sandbox/dormouse/sandboxd/home"
)

// New returns a path for a home: a path that is short enough that a socket fits below it. The home is removed after the
// test.
func New(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "home")
}

// Start calls run, which must run a daemon in the home dir until its context ends, and waits until the daemon answers. The
// daemon runs until the test ends or end is called. The test fails if run returns an error.
func Start(t *testing.T, dir string, run func(context.Context) error) (c *api.Client, end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	c = api.Dial(home.SocketPath(dir))
	for deadline := time.Now().Add(time.Minute); c.Healthy(t.Context()) != nil; time.Sleep(5 * time.Millisecond) {
		select {
		case err := <-done:
			cancel()
			t.Fatalf("the daemon ended before it answered: %v", err)
		default:
		}
		if time.Now().After(deadline) {
			cancel()
			t.Fatal("the daemon has not answered after a minute")
		}
	}
	ended := false
	end = func() {
		cancel()
		if !ended {
			ended = true
			if err := <-done; err != nil {
				t.Errorf("the daemon ended with %v, want nil", err)
			}
		}
	}
	t.Cleanup(func() { c.Close(); end() })
	return c, end
}

// Pid returns the pid in a home's pid file.
func Pid(t *testing.T, dir string) int {
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

// Mode returns the permissions of a file or folder.
func Mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}
