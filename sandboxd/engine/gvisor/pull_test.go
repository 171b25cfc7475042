//go:build linux

package gvisor_test

import (
	"archive/tar"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/enginetest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/rootfs/rootfstest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// openPulling opens an engine that pulls images. It returns the engine and the path of a new folder for its images.
func openPulling(t *testing.T) (*gvisor.Engine, string) {
	t.Helper()
	open(t, tempDir(t), nil) // skips the test if the engine can't work here
	images := tempDir(t)
	e, err := gvisor.New(t.Context(), gvisor.Config{Dir: tempDir(t), Images: images, Bundle: enginetest.Probe(t), Runsc: runsc(t), Pull: true, WithoutCgroups: os.Geteuid() != 0})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e, images
}

// TestAnImageIsPulled checks that Create pulls a missing image, and that a sandbox gets the image's PATH.
func TestAnImageIsPulled(t *testing.T) {
	e, images := openPulling(t)
	server := httptest.NewServer(registry.New())
	defer server.Close()
	ref := strings.TrimPrefix(server.URL, "http://") + "/some/tool:1"
	named, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(named, rootfstest.TwoLayers(t)); err != nil {
		t.Fatal(err)
	}
	s := spec(ref)
	if err := e.Create(t.Context(), s); err != nil {
		t.Fatalf("Create: %v", err)
	}
	removeLater(t, e, s.ID)
	config, err := os.ReadFile(e.ConfigFile(s.ID))
	if err != nil || !strings.Contains(string(config), `"PATH=/image/bin:/bin"`) || strings.Contains(string(config), "A=b") {
		t.Errorf("the configuration is %s, %v, want the image's PATH, and no more of its environment", config, err)
	}
	rootfstest.WantUnpacked(t, images)
	server.Close() // Create needs no registry for an unpacked image
	again := spec(ref)
	if err := e.Create(t.Context(), again); err != nil {
		t.Errorf("Create: %v", err)
	}
	removeLater(t, e, again.ID)
}

func TestFailedPullNamesTheCause(t *testing.T) {
	e, images := openPulling(t)
	good := registry.New()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "hangs") {
			<-r.Context().Done()
			return
		}
		good.ServeHTTP(w, r)
	}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	write := func(ref string, img v1.Image) {
		named, err := name.ParseReference(ref)
		if err == nil {
			err = remote.Write(named, img)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	foreign := rootfstest.Image(t, []tar.Header{{Name: "x", Typeflag: tar.TypeReg}})
	config, _ := foreign.ConfigFile() // can't fail: rootfstest.Image has written the configuration
	config = config.DeepCopy()
	config.Architecture = "s390x"
	foreign, err := mutate.ConfigFile(foreign, config)
	if err != nil {
		t.Fatal(err)
	}
	write(host+"/foreign:1", foreign)
	write(host+"/escape:1", rootfstest.Image(t, []tar.Header{{Name: "../../out", Typeflag: tar.TypeReg}}))
	for _, test := range []struct {
		ref, says string
		kind      sandbox.Kind
	}{
		{"Not A Name", "not the name", sandbox.Invalid},
		{host + "/no/such:1", "could not be pulled", sandbox.Unavailable},
		{"127.0.0.1:1/nobody/there:1", "could not be pulled", sandbox.Unavailable},
		{host + "/foreign:1", "s390x", sandbox.Invalid},
		{host + "/escape:1", "could not be pulled", sandbox.Unavailable},
	} {
		err := e.Create(t.Context(), spec(test.ref))
		if sandbox.KindOf(err) != test.kind || !strings.Contains(sandbox.Public(err).Message, test.says) {
			t.Errorf("Create of %s = %v (%s), want %s: %s", test.ref, err, sandbox.KindOf(err), test.kind, test.says)
		}
	}
	// If the context ends during a pull, Create returns the error for an image that is still being pulled, and the pull
	// continues. Close cancels the pull.
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := e.Create(ctx, spec(host+"/hangs:1")); sandbox.KindOf(err) != sandbox.Unavailable || !strings.Contains(err.Error(), "still being pulled") {
		t.Errorf("Create = %v, want an error that the image is still being pulled", err)
	}
	began := time.Now()
	if err := e.Close(); err != nil || time.Since(began) > time.Minute {
		t.Errorf("Close = %v after %v, want no error within a minute, although the registry does not answer the pull", err, time.Since(began))
	}
	if left, _ := filepath.Glob(filepath.Join(images, "*", "rootfs")); len(left) > 0 {
		t.Errorf("the folders %q exist after Close, want none", left)
	}
}
