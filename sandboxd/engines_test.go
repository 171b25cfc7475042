package sandboxd

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// On another engine a home's sandboxes would be taken for lost, so auto does not change it.
func TestAutoStaysWithTheEngineThatHasTheSandboxes(t *testing.T) {
	t.Setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
	t.Setenv("PATH", "") // no runsc
	home := t.TempDir()
	s, err := store.Open(t.Context(), filepath.Join(home, databaseName), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	says := func() string {
		t.Helper()
		_, err := openOwn(t.Context(), &Config{Home: home, Engine: autoEngine}, "home", s)
		if sandbox.KindOf(err) != sandbox.Unavailable {
			t.Fatalf("openOwn = %v, want it unavailable", err)
		}
		return err.Error()
	}
	_, dockerErr := openDocker(t.Context(), &Config{}, "home", nil)
	_, gvisorErr := openGvisor(t.Context(), &Config{Home: home}, nil, "")
	if dockerErr == nil || gvisorErr == nil {
		t.Fatalf("opened an engine that is not there: %v, %v", dockerErr, gvisorErr)
	}
	if err := os.WriteFile(filepath.Join(home, engineName), []byte("gvisor\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := says(); got != dockerErr.Error() {
		t.Errorf("without sandboxes it says %q, want %q", got, dockerErr)
	}
	now := time.Now()
	if err := s.AddSandbox(store.Sandbox{ID: sandbox.NewID(), State: sandbox.Provisioning, Language: sandbox.Python, Image: "i:1",
		Limits: sandbox.DefaultLimits(), UID: 200_000, Container: true, CreateTime: now, ExpireTime: now.Add(time.Hour), UsedTime: now}); err != nil {
		t.Fatal(err)
	}
	if got := says(); got != gvisorErr.Error() {
		t.Errorf("with a sandbox it says %q, want %q", got, gvisorErr)
	}
	if err := os.Remove(filepath.Join(home, engineName)); err != nil {
		t.Fatal(err)
	}
	if got := says(); got != dockerErr.Error() {
		t.Errorf("with a sandbox, and nobody knows where, it says %q, want %q", got, dockerErr)
	}
}
