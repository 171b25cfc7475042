//go:build unix

package home_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/home"
	"github.com/dormouse-sandbox/dormouse/sandboxd/home/hometest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

func TestDefault(t *testing.T) {
	t.Setenv("DORMOUSE_HOME", "/somewhere/else")
	if got := home.Default(); got != "/somewhere/else" {
		t.Errorf("Default() = %s, want the value of DORMOUSE_HOME", got)
	}
	t.Setenv("DORMOUSE_HOME", "")
	if runtime.GOOS != "linux" {
		return
	}
	t.Setenv("HOME", "/home/me")
	for state, want := range map[string]string{"": "/home/me/.local/state/dormouse", "/state": "/state/dormouse", "relative": "/home/me/.local/state/dormouse"} {
		t.Setenv("XDG_STATE_HOME", state)
		if got := home.Default(); got != want {
			t.Errorf("Default() with XDG_STATE_HOME=%q = %s, want %s", state, got, want)
		}
	}
}

// TestLongHome checks that a home whose path is too long for a socket works, also through a symbolic link and with another
// TMPDIR.
func TestLongHome(t *testing.T) {
	dir := filepath.Join(hometest.New(t), strings.Repeat("long/", 30), "home")
	path := home.SocketPath(dir)
	if len(path) > 100 || !strings.HasPrefix(path, "/tmp/dormouse-") {
		t.Fatalf("SocketPath() = %s, want a path of at most 100 bytes below /tmp", path)
	}
	t.Cleanup(func() { os.RemoveAll(filepath.Dir(path)) })
	c, end := run(t, dir)
	must(t, c.Healthy(t.Context()))
	if got := hometest.Mode(t, filepath.Dir(path)); got != 0o700 {
		t.Errorf("mode of the socket's folder = %o, want 700", got)
	}
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(filepath.Dir(dir), link))
	t.Setenv("TMPDIR", "/elsewhere")
	if got := home.SocketPath(filepath.Join(link, "home")); got != path {
		t.Errorf("SocketPath() through a link = %s, want %s", got, path)
	}
	end()

	// Another user could create the socket's folder first and listen there in place of the daemon.
	must(t, os.Chmod(filepath.Dir(path), 0o777))
	if err := home.Prepare(dir); sandbox.KindOf(err) != sandbox.Unavailable {
		t.Errorf("Prepare() = %v, want that other users can access the folder", err)
	}
	if _, _, err := home.Connect(t.Context(), dir, "/no/such/program"); sandbox.KindOf(err) != sandbox.Unavailable || strings.Contains(err.Error(), "program") {
		t.Errorf("Connect() = %v, want that other users can access the folder", err)
	}
}

// TestPrepare checks which existing folders are accepted as a home.
func TestPrepare(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(t *testing.T, dir string)
		ok   bool
	}{
		{"creates a missing folder", func(*testing.T, string) {}, true},
		{"closes an empty folder that others can access", func(t *testing.T, dir string) { must(t, os.Mkdir(dir, 0o755)) }, true},
		{"closes a home that others can access", func(t *testing.T, dir string) {
			must(t, os.Mkdir(dir, 0o755))
			must(t, os.WriteFile(filepath.Join(dir, "home.id"), nil, 0o600))
		}, true},
		{"accepts a private folder with files", func(t *testing.T, dir string) {
			must(t, os.Mkdir(dir, 0o700))
			must(t, os.WriteFile(filepath.Join(dir, "x"), nil, 0o600))
		}, true},
		{"rejects a folder with files that others can access", func(t *testing.T, dir string) {
			must(t, os.Mkdir(dir, 0o755))
			must(t, os.WriteFile(filepath.Join(dir, "x"), nil, 0o600))
		}, false},
		{"rejects a file", func(t *testing.T, dir string) { must(t, os.WriteFile(dir, nil, 0o600)) }, false},
		{"rejects another user's folder", func(t *testing.T, dir string) {
			if os.Geteuid() != 0 {
				t.Skip("only root can change the owner of a folder")
			}
			must(t, os.Mkdir(dir, 0o700))
			must(t, os.Chown(dir, 65534, 65534))
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := hometest.New(t)
			tt.make(t, dir)
			err := home.Prepare(dir)
			if (err == nil) != tt.ok {
				t.Errorf("Prepare() = %v, want success %t", err, tt.ok)
			}
			if err == nil {
				if got := hometest.Mode(t, dir); got != 0o700 {
					t.Errorf("mode = %o, want 700", got)
				}
			}
		})
	}
}
