package docker_test

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/docker/docker/client"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/docker"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/docker/directexec"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/enginetest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// skipWithout skips a test because a component that it needs is missing. The parameter what is the component's name,
// such as "runsc", and why is the reason. If the comma-separated list in DORMOUSE_TEST_REQUIRE contains the name,
// skipWithout fails the test instead.
func skipWithout(t testing.TB, what string, why any) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("DORMOUSE_TEST_REQUIRE"), ","), what) {
		t.Fatalf("%s is required, and not there: %v", what, why)
	}
	t.Skipf("NOT TESTED: no %s: %v", what, why)
}

// homes contains the homes that this process's tests have opened, and the builds of the guests that they have installed.
var homes sync.Map

// open opens the engine that config describes, and skips the test if there is none. When the test ends, open removes
// the guest's volume and closes the engine.
func open(t testing.TB, config docker.Config) *docker.Engine {
	t.Helper()
	if testing.Short() {
		t.Skip("needs an engine: not with -short")
	}
	homes.Store(config.Home, true)
	if config.Bundle != nil {
		homes.Store(config.Bundle.ID(), true)
	}
	e, err := docker.New(t.Context(), config)
	if sandbox.KindOf(err) == sandbox.Unavailable {
		what := "docker"
		if strings.Contains(err.Error(), "no runtime") {
			what = config.Runtime
		}
		skipWithout(t, what, err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if config.Bundle != nil {
			// The error is ignored: the removal fails while sandboxes of the test's other engines use the volume, and
			// the cleanup of the last of these engines removes it.
			_ = e.RemoveVolume(context.WithoutCancel(t.Context()), e.VolumeOf(config.Bundle, runtime.GOARCH))
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// testImage returns the image to test with: DORMOUSE_TEST_IMAGE, or an image that the engine has.
func testImage(t testing.TB) string {
	t.Helper()
	if ref := os.Getenv("DORMOUSE_TEST_IMAGE"); ref != "" {
		return ref
	}
	tags, err := open(t, docker.Config{Home: "test"}).Images(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(tags) == 0 {
		skipWithout(t, "docker", "the engine has no image: run `dormouse image build`")
	}
	return tags[0]
}

// killForgottenShims kills the shims of containers that the engine no longer manages. TestMain sets it on Linux. On
// other operating systems it does nothing.
var killForgottenShims = func(testing.TB) {}

func TestSuite(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"runc", "runsc"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := testImage(t)
			// If runsc can't start a container, for example because its guest is not a program, Docker 20.10 leaves the
			// container's shim.
			t.Cleanup(func() { killForgottenShims(t) })
			enginetest.Run(t, func(t *testing.T, home string, guest engine.Bundle) engine.Engine {
				return open(t, docker.Config{Home: home, Bundle: guest, Runtime: name})
			}, image)
		})
	}
}

// TestRemote runs a part of the suite with an engine that is reached over TCP. Such an engine counts as remote, so
// guests are reached only through the engine's exec.
func TestRemote(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"runc", "runsc"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image, host := testImage(t), "tcp://"+forward(t)
			t.Cleanup(func() { killForgottenShims(t) }) // runsc can't start a container whose guest's volume was removed, and leaves a shim
			enginetest.RunContract(t, func(t *testing.T, home string, guest engine.Bundle) engine.Engine {
				e := open(t, docker.Config{Home: home, Bundle: guest, Runtime: name, Host: host})
				if e.Local() {
					t.Fatal("the engine counts as local, want remote")
				}
				return e
			}, image, enginetest.Probe(t))
		})
	}
}

// forward makes this machine's engine reachable over TCP, and returns the address.
func forward(t *testing.T) string {
	t.Helper()
	url, err := client.ParseHostURL(open(t, docker.Config{Home: "test"}).Host())
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial(url.Scheme, url.Host)
			if err != nil {
				near.Close()
				continue
			}
			pipe := func(to, from net.Conn) {
				_, _ = io.Copy(to, from)
				if half, ok := to.(interface{ CloseWrite() error }); ok {
					_ = half.CloseWrite()
				}
			}
			go pipe(far, near)
			go pipe(near, far)
		}
	}()
	return listener.Addr().String()
}

// TestLocalRuntime checks that a daemon with root rights finds the runtime of a container on this machine, and reaches
// the guest through this runtime. With the pid of another process, it must find no runtime.
func TestLocalRuntime(t *testing.T) {
	for _, name := range []string{"runc", "runsc"} {
		t.Run(name, func(t *testing.T) {
			image, guest := testImage(t), enginetest.Probe(t)
			e := open(t, docker.Config{Home: "test-local", Bundle: guest, Runtime: name})
			s := spec(image)
			if err := e.Create(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = e.Remove(context.WithoutCancel(t.Context()), s.ID) })
			if found, program := e.RuntimeOf(t.Context(), s.ID); !found {
				skipWithout(t, name, "the daemon is not root, or the engine is on another machine")
			} else if !strings.Contains(filepath.Base(program), name) {
				t.Errorf("the sandbox's runtime = %s, want %s", program, name)
			}
			if _, found := directexec.Find("0123456789ab", os.Getpid()); found {
				t.Error("Find returned a runtime for a process that is in no container")
			}
			if execs, err := e.Execs(t.Context(), s.ID); err != nil || execs > 0 {
				t.Errorf("the engine has %d execs, %v, want 0, because the guest is reached without the engine", execs, err)
			}
		})
	}
}
