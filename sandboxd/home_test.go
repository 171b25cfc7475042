//go:build unix

package sandboxd_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

func TestDefaultHome(t *testing.T) {
	t.Setenv("DORMOUSE_HOME", "/somewhere/else")
	if got := sandboxd.DefaultHome(); got != "/somewhere/else" {
		t.Errorf("DefaultHome() = %s", got)
	}
	t.Setenv("DORMOUSE_HOME", "")
	if runtime.GOOS != "linux" {
		return
	}
	t.Setenv("HOME", "/home/me")
	for state, want := range map[string]string{"": "/home/me/.local/state/dormouse", "/state": "/state/dormouse", "relative": "/home/me/.local/state/dormouse"} {
		t.Setenv("XDG_STATE_HOME", state)
		if got := sandboxd.DefaultHome(); got != want {
			t.Errorf("DefaultHome() with XDG_STATE_HOME=%q = %s, want %s", state, got, want)
		}
	}
}

// TestLongHome checks that a home whose path is too long for a socket works, also through a symbolic link and with another
// TMPDIR.
func TestLongHome(t *testing.T) {
	home := filepath.Join(newHome(t), strings.Repeat("long/", 30), "home")
	path := sandboxd.SocketPath(home)
	if len(path) > 100 || !strings.HasPrefix(path, "/tmp/dormouse-") {
		t.Fatalf("SocketPath() = %s", path)
	}
	t.Cleanup(func() { os.RemoveAll(filepath.Dir(path)) })
	c, end := run(t, home)
	must(t, c.Healthy(t.Context()))
	if got := mode(t, filepath.Dir(path)); got != 0o700 {
		t.Errorf("mode of the socket's folder = %o, want 700", got)
	}
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(filepath.Dir(home), link))
	t.Setenv("TMPDIR", "/elsewhere")
	if got := sandboxd.SocketPath(filepath.Join(link, "home")); got != path {
		t.Errorf("SocketPath() through a link = %s, want %s", got, path)
	}
	end()

	// Another user could create the socket's folder first and listen there in place of the daemon.
	must(t, os.Chmod(filepath.Dir(path), 0o777))
	if err := sandboxd.Run(t.Context(), config(home)); sandbox.KindOf(err) != sandbox.Unavailable {
		t.Errorf("Run() = %v, want that the folder is open to others", err)
	}
	if _, _, err := sandboxd.Connect(t.Context(), home, "/no/such/program"); sandbox.KindOf(err) != sandbox.Unavailable || strings.Contains(err.Error(), "program") {
		t.Errorf("Connect() = %v, want that the folder is open to others", err)
	}
}

// TestHomeRefused checks which existing folders are accepted as a home.
func TestHomeRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(t *testing.T, dir string)
		ok   bool
	}{
		{"not there", func(*testing.T, string) {}, true},
		{"empty and open", func(t *testing.T, dir string) { must(t, os.Mkdir(dir, 0o755)) }, true},
		{"closed and in use", func(t *testing.T, dir string) {
			must(t, os.Mkdir(dir, 0o700))
			must(t, os.WriteFile(filepath.Join(dir, "x"), nil, 0o600))
		}, true},
		{"open and in use", func(t *testing.T, dir string) {
			must(t, os.Mkdir(dir, 0o755))
			must(t, os.WriteFile(filepath.Join(dir, "x"), nil, 0o600))
		}, false},
		{"a file", func(t *testing.T, dir string) { must(t, os.WriteFile(dir, nil, 0o600)) }, false},
		{"another user's", func(t *testing.T, dir string) {
			if os.Geteuid() != 0 {
				t.Skip("only root can give files away")
			}
			must(t, os.Mkdir(dir, 0o700))
			must(t, os.Chown(dir, 65534, 65534))
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			home := newHome(t)
			tt.make(t, home)
			d, err := sandboxd.Open(t.Context(), config(home))
			if err == nil {
				must(t, d.Close())
				if got := mode(t, home); got != 0o700 {
					t.Errorf("mode = %o, want 700", got)
				}
			}
			if (err == nil) != tt.ok {
				t.Errorf("Open() = %v, want ok %t", err, tt.ok)
			}
		})
	}
	if os.Geteuid() == 0 && mode(t, "/tmp") == 0o700 {
		t.Fatal("/tmp was closed")
	}
}
