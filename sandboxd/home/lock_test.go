//go:build unix

package home_test

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/home"
	"github.com/dormouse-sandbox/dormouse/sandboxd/home/hometest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestOneDaemon checks that Acquire fails with the pid of the daemon that answers in the home.
func TestOneDaemon(t *testing.T) {
	dir := hometest.New(t)
	run(t, dir)
	_, err := home.Acquire(t.Context(), dir)
	if !errors.Is(err, home.ErrRunning) || !strings.Contains(err.Error(), "pid "+strconv.Itoa(os.Getpid())) {
		t.Errorf("Acquire() = %v, want ErrRunning with the pid", err)
	}
}

// TestPidFile checks that WritePid replaces the pid of an earlier daemon, also if it fails, and that Release removes the file.
func TestPidFile(t *testing.T) {
	dir := hometest.New(t)
	lock := acquire(t, dir)
	path := filepath.Join(dir, "sandboxd.pid")
	must(t, os.WriteFile(path, []byte("1\n"), 0o600))
	must(t, lock.WritePid())
	if got := hometest.Pid(t, dir); got != os.Getpid() || hometest.Mode(t, path) != 0o600 {
		t.Errorf("pid = %d, mode %o, want %d, mode 600", got, hometest.Mode(t, path), os.Getpid())
	}
	must(t, lock.Release())
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Stat of the pid file after Release = %v, want that it does not exist", err)
	}
}

// TestStaleSocket checks that Listen replaces the socket of a killed daemon, but does not remove a file that is not a socket.
func TestStaleSocket(t *testing.T) {
	dir := hometest.New(t)
	lock := acquire(t, dir)
	path := home.SocketPath(dir)
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	must(t, err)
	stale.SetUnlinkOnClose(false)
	must(t, stale.Close())
	l, err := lock.Listen(slog.New(slog.DiscardHandler))
	must(t, err)
	must(t, l.Close())

	must(t, os.WriteFile(path, []byte("precious"), 0o600))
	if _, err := lock.Listen(slog.New(slog.DiscardHandler)); sandbox.KindOf(err) != sandbox.Unavailable || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("Listen() = %v, want that the file is not a socket", err)
	}
	text, err := os.ReadFile(path)
	must(t, err)
	if string(text) != "precious" {
		t.Errorf("the file contains %q, want that it is unchanged", text)
	}
}

// TestID checks that the id of a home does not change, and that a damaged id is not replaced.
func TestID(t *testing.T) {
	dir := hometest.New(t)
	lock := acquire(t, dir)
	var ids []string
	for range 2 {
		id, err := lock.ID()
		must(t, err)
		ids = append(ids, id)
	}
	if ids[0] != ids[1] || len(ids[0]) != 36 {
		t.Errorf("ids = %q, want the same UUID twice", ids)
	}
	path := filepath.Join(dir, "home.id")
	if got := hometest.Mode(t, path); got != 0o600 {
		t.Errorf("mode of %s = %o, want 600", path, got)
	}
	must(t, os.WriteFile(path, []byte("x"), 0o600))
	if _, err := lock.ID(); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("ID() = %v, want that the file is damaged", err)
	}
}
