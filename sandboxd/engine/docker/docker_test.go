package docker_test

import (
	"context"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/docker"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/enginetest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// missing skips a test for the want of something, unless DORMOUSE_TEST_REQUIRE (a
// list with commas) says that this machine has it.
func missing(t testing.TB, what string, why any) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("DORMOUSE_TEST_REQUIRE"), ","), what) {
		t.Fatalf("%s is required, and not there: %v", what, why)
	}
	t.Skipf("NOT TESTED: no %s: %v", what, why)
}

// open opens the engine of this machine, and removes the guest's volume in the end.
func open(t testing.TB, config docker.Config) *docker.Engine {
	t.Helper()
	if testing.Short() {
		t.Skip("needs an engine: not with -short")
	}
	e, err := docker.New(t.Context(), config)
	if sandbox.KindOf(err) == sandbox.Unavailable {
		what := "docker"
		if strings.Contains(err.Error(), "no runtime") {
			what = config.Runtime
		}
		missing(t, what, err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if config.Bundle != nil {
			// In use until the last engine of a test is closed: then it goes.
			_ = e.RemoveVolume(context.WithoutCancel(t.Context()), e.VolumeOf(config.Bundle, runtime.GOARCH))
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// anyImage is the image to test with.
func anyImage(t testing.TB) string {
	t.Helper()
	if ref := os.Getenv("DORMOUSE_TEST_IMAGE"); ref != "" {
		return ref
	}
	tags, err := open(t, docker.Config{Home: "test"}).Images(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(tags) == 0 {
		missing(t, "docker", "the engine has no image: run `dormouse image build`")
	}
	return tags[0]
}

func TestSuite(t *testing.T) {
	for _, name := range []string{"runc", "runsc"} {
		t.Run(name, func(t *testing.T) {
			image := anyImage(t)
			enginetest.Run(t, func(t *testing.T, home string, guest engine.Bundle) engine.Engine {
				return open(t, docker.Config{Home: home, Bundle: guest, Runtime: name})
			}, image)
		})
	}
}
