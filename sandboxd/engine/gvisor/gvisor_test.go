package gvisor_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/image"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/enginetest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// missing skips a test that needs something that this machine does not have. The parameter what names it, and why is the
// reason. If DORMOUSE_TEST_REQUIRE, a comma-separated list, contains that name, missing fails the test instead.
func missing(t *testing.T, what string, why any) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("DORMOUSE_TEST_REQUIRE"), ","), what) {
		t.Fatalf("%s is required, and not there: %v", what, why)
	}
	t.Skipf("NOT TESTED: no %s: %v", what, why)
}

// runsc returns the path of the runsc to test with: the program in bin of this checkout, or else the program in PATH.
func runsc(t *testing.T) string {
	t.Helper()
	own, err := filepath.Abs("../../../bin/runsc") // go test runs tests in the folder of their package
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(own); err == nil {
		return own
	}
	path, err := exec.LookPath("runsc")
	if err != nil {
		missing(t, "runsc", "`make build` makes it")
	}
	return path
}

// tempDir creates a temporary folder with a short path, as homes have, and removes it at the end of the test.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dm-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// eventually polls until ok returns true. It fails and ends the test after a minute.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen within a minute: %s", what)
		}
	}
}

// open opens the engine of a home.
func open(t *testing.T, dir string, guest engine.Bundle) *gvisor.Engine {
	t.Helper()
	if testing.Short() {
		t.Skip("needs an engine: not with -short")
	}
	e, err := gvisor.New(t.Context(), gvisor.Config{Dir: dir, Bundle: guest, Runsc: runsc(t), WithoutCgroups: os.Geteuid() != 0})
	if sandbox.KindOf(err) == sandbox.Unavailable {
		missing(t, "runsc", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// anyImage returns the name of an unpacked image to test with: the image that DORMOUSE_TEST_IMAGE names if it is
// unpacked, or else Dormouse's own image if it was built on this machine, or else any image.
func anyImage(t *testing.T) string {
	t.Helper()
	testImage.Lock()
	defer testImage.Unlock()
	if testImage.ref == "" {
		testImage.ref = findImage(t)
	}
	return testImage.ref
}

// testImage is the result of anyImage, which all tests share.
var testImage struct {
	sync.Mutex
	ref string
}

func findImage(t *testing.T) string {
	t.Helper()
	e := open(t, tempDir(t), nil)
	refs := e.Refs()
	if asked := os.Getenv("DORMOUSE_TEST_IMAGE"); slices.Contains(refs, asked) {
		return asked
	}
	if slices.Contains(refs, image.Ref()) {
		return image.Ref()
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	tar := filepath.Join(cache, "dormouse", "image-"+strings.TrimPrefix(image.Ref(), image.Repository+":")+".tar")
	if _, err := os.Stat(tar); err == nil { // call Ensure only if the tar exists: otherwise it would build the image
		if _, err := image.Ensure(t.Context(), e, image.Options{}, t.Output()); err != nil {
			t.Fatal(err)
		}
		return image.Ref()
	}
	if len(refs) == 0 {
		missing(t, "runsc", "no image is unpacked: run `dormouse image build --engine gvisor`")
	}
	return refs[0]
}

func TestSuite(t *testing.T) {
	t.Parallel()
	image := anyImage(t)
	homes := map[string]string{}
	enginetest.Run(t, func(t *testing.T, home string, guest engine.Bundle) engine.Engine {
		if homes[home] == "" {
			homes[home] = tempDir(t)
		}
		return open(t, homes[home], guest)
	}, image)
}
