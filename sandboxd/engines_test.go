package sandboxd

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/home"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// TestAutoStaysWithTheEngineThatHasTheSandboxes checks that, with auto, a home with sandboxes on one kind of engine does not open
// the other kind, because the daemon would then consider the sandboxes lost.
func TestAutoStaysWithTheEngineThatHasTheSandboxes(t *testing.T) {
	t.Setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
	t.Setenv("PATH", "") // so that runsc is not found
	dir := t.TempDir()
	s, err := store.Open(t.Context(), filepath.Join(dir, home.DatabaseName), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	openError := func() string {
		t.Helper()
		_, err := openDaemonEngine(t.Context(), testConfig(dir, autoEngine), "home", s)
		if sandbox.KindOf(err) != sandbox.Unavailable {
			t.Fatalf("openDaemonEngine() = %v, want an error of the kind unavailable", err)
		}
		return err.Error()
	}
	_, dockerErr := openDocker(t.Context(), testConfig("", dockerEngine), "home", nil)
	_, gvisorErr := openGvisor(t.Context(), testConfig(dir, autoEngine), nil, "")
	if dockerErr == nil || gvisorErr == nil {
		t.Fatalf("opened an engine on a machine without engines: docker %v, gvisor %v", dockerErr, gvisorErr)
	}
	if err := os.WriteFile(filepath.Join(dir, home.EngineName), []byte("gvisor\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := openError(); got != dockerErr.Error() {
		t.Errorf("without sandboxes, the error is %q, want %q", got, dockerErr)
	}
	now, id := time.Now(), sandbox.NewID()
	if err := s.AddSandbox(store.Sandbox{ID: id, State: sandbox.Provisioning, Language: sandbox.Python, Image: "i:1",
		Limits: sandbox.DefaultLimits(), UID: 200_000, Container: true, CreateTime: now, ExpireTime: now.Add(time.Hour), UsedTime: now}); err != nil {
		t.Fatal(err)
	}
	if got, want := openError(), "this home's sandboxes are on the gvisor engine: "+gvisorErr.Error(); got != want {
		t.Errorf("with a sandbox, the error is %q, want %q", got, want)
	}
	_, err = openDaemonEngine(t.Context(), testConfig(dir, dockerEngine), "home", s)
	if err == nil || !strings.Contains(err.Error(), "use --engine gvisor") {
		t.Errorf("openDaemonEngine() with docker = %v, want an error because the home's sandbox is on gvisor", err)
	}
	// While the container of a terminated sandbox may still exist, the home stays with its engine.
	if err := s.TerminateSandbox(id, store.Termination{Cause: store.CauseDeleted, Reason: "it was deleted", Time: now}); err != nil {
		t.Fatal(err)
	}
	if got, want := openError(), "this home's sandboxes are on the gvisor engine: "+gvisorErr.Error(); got != want {
		t.Errorf("with the container of a terminated sandbox, the error is %q, want %q", got, want)
	}
	if h, err := countContents(t.Context(), s, gvisorEngine); err != nil || h != (engineContents{leftovers: 1}) {
		t.Errorf("countContents() = %+v, %v, want one container of a terminated sandbox", h, err)
	}
	// If the file with the engine's name is empty or damaged, the home counts as one without a recorded engine.
	for _, text := range []string{"", "\x00\x00\x00"} {
		if err := os.WriteFile(filepath.Join(dir, home.EngineName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := openError(); got != dockerErr.Error() {
			t.Errorf("with the record %q, the error is %q, want %q", text, got, dockerErr)
		}
	}
}

// testConfig returns the configuration of a home on an engine.
func testConfig(dir, engine string) *Config {
	return &Config{Settings: Settings{Home: dir, Engine: engine}}
}

func TestOpenEngineRejectsAnUnknownEngine(t *testing.T) {
	_, err := OpenEngine(t.Context(), *testConfig(t.TempDir(), "podman"))
	if sandbox.KindOf(err) != sandbox.Invalid || !strings.Contains(err.Error(), "docker or gvisor") {
		t.Errorf("OpenEngine() with the engine podman = %v, want an error that lists the engines", err)
	}
}
