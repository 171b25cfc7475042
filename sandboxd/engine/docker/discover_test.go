package docker

import (
	"crypto/sha256"
	"encoding/hex"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// dockerHome creates a home folder with a Docker context named "there", and sets the current context.
func dockerHome(t *testing.T, current string) string {
	t.Helper()
	home := t.TempDir()
	write := func(text string, below ...string) {
		t.Helper()
		name := filepath.Join(append([]string{home, ".docker"}, below...)...)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	hash := sha256.Sum256([]byte("there"))
	folder := hex.EncodeToString(hash[:])
	write(`{"currentContext":"`+current+`","auths":{}}`, "config.json")
	write(`{"Name":"there","Endpoints":{"docker":{"Host":"tcp://there:2376","SkipTLSVerify":false}}}`, "contexts", "meta", folder, "meta.json")
	write("x", "contexts", "tls", folder, "docker", "cert.pem")
	return home
}

func TestPlacesFollowTheDockerCLI(t *testing.T) {
	for _, test := range []struct {
		name    string
		given   string
		current string
		env     map[string]string
		want    []string // the first hosts, in order
		only    bool     // no other hosts may follow those in want
	}{
		{name: "a host that is given", given: "unix:///given", env: map[string]string{"DOCKER_HOST": "unix:///env"}, want: []string{"unix:///given"}, only: true},
		{name: "DOCKER_HOST before contexts", current: "there", env: map[string]string{"DOCKER_HOST": "unix:///env", "DOCKER_CONTEXT": "x"}, want: []string{"unix:///env"}, only: true},
		{name: "DOCKER_CONTEXT before the current one", current: "other", env: map[string]string{"DOCKER_CONTEXT": "there"}, want: []string{"tcp://there:2376"}, only: true},
		{name: "the current context", current: "there", want: []string{"tcp://there:2376"}, only: true},
		{name: "a context that is missing is no reason to look elsewhere", current: "nowhere", want: []string{""}, only: true},
		{name: "the default context is the usual places", current: "default", want: []string{"unix:///var/run/docker.sock"}},
		{name: "the system's socket before a rootless one", env: map[string]string{"XDG_RUNTIME_DIR": "/run/user/7"}, want: []string{"unix:///var/run/docker.sock", "unix:///run/user/7/docker.sock"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			env := environment{func(name string) string { return test.env[name] }, dockerHome(t, test.current), "linux"}
			var got []string
			for _, p := range places(test.given, env) {
				got = append(got, p.host)
			}
			if len(got) < len(test.want) || !slices.Equal(got[:len(test.want)], test.want) || test.only && len(got) > len(test.want) {
				t.Errorf("places = %q, want %q first (and no other: %v)", got, test.want, test.only)
			}
		})
	}
}

func TestContextUsesItsCertificates(t *testing.T) {
	home := dockerHome(t, "there")
	got := places("", environment{func(string) string { return "" }, home, "linux"})
	if !strings.HasPrefix(got[0].tlsDir, home) {
		t.Errorf("tlsDir = %q, want the folder of the context", got[0].tlsDir)
	}
}

func TestWindowsHasPipes(t *testing.T) {
	for _, p := range places("", environment{func(string) string { return "" }, t.TempDir(), "windows"}) {
		if !strings.HasPrefix(p.host, "npipe://") {
			t.Errorf("place %s has the host %s, want a pipe", p.name, p.host)
		}
	}
}

// TestDiscoverErrorNamesEachPlace checks that the error of discover is of kind unavailable, describes the problem with
// the place that was tried, and contains no path.
func TestDiscoverErrorNamesEachPlace(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	dead := filepath.Join(dir, "dead.sock")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	listener.Close()
	for _, test := range []struct{ host, want string }{
		{"unix://" + dir + "/none.sock", "not there"},
		{"unix://" + dead, "no process listens there"},
		{"ssh://somewhere", "ssh is not supported"},
		{"ftp://somewhere", "use unix, tcp or npipe"},
		{"nonsense", "unable to parse"},
	} {
		_, err := discover(t.Context(), test.host)
		if sandbox.KindOf(err) != sandbox.Unavailable || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), dir) {
			t.Errorf("discover(%q) = %v, want an unavailable error with %q and no path", test.host, err, test.want)
		}
	}
}
