//go:build linux

package gvisor_test

import (
	"archive/tar"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/enginetest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor"
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

// imageOf returns an image for this machine with the given layers.
func imageOf(t *testing.T, layers ...[]tar.Header) v1.Image {
	t.Helper()
	img := empty.Image
	for _, headers := range layers {
		text := tarOf(t, headers...).Bytes()
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(string(text))), nil })
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			t.Fatal(err)
		}
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Config.Env = "linux", runtime.GOARCH, []string{"A=b", "PATH=/image/bin:/bin"}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	return img
}

func twoLayers(t *testing.T) v1.Image {
	return imageOf(t, []tar.Header{
		{Name: "image/bin/tool", Typeflag: tar.TypeReg, Mode: 0o4755},
		{Name: "old", Typeflag: tar.TypeReg, Mode: 0o644},
	}, []tar.Header{{Name: ".wh.old", Typeflag: tar.TypeReg}, {Name: "new", Typeflag: tar.TypeReg, Mode: 0o644}})
}

// wantUnpacked fails the test unless the image of twoLayers is the only unpacked image.
func wantUnpacked(t *testing.T, images string) {
	t.Helper()
	roots, _ := filepath.Glob(filepath.Join(images, "*", "rootfs"))
	if len(roots) != 1 {
		t.Fatalf("there are %q, want one image", roots)
	}
	tool, err := os.Stat(filepath.Join(roots[0], "image/bin/tool"))
	if err != nil || tool.Mode() != 0o755 {
		t.Errorf("the tool is %v, %v, want it there, without set-user-id", tool, err)
	}
	if _, err := os.Stat(filepath.Join(roots[0], "old")); err == nil {
		t.Error("a file is there that a layer hides")
	}
	if left, _ := filepath.Glob(filepath.Join(images, "making-*")); len(left) > 0 {
		t.Errorf("%q are left", left)
	}
}

// TestAnImageIsPulled checks that a missing image is pulled when it is first requested, and only once for several
// concurrent requests.
func TestAnImageIsPulled(t *testing.T) {
	e, images := openPulling(t)
	var manifests atomic.Int32
	handler := registry.New()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/manifests/") {
			manifests.Add(1)
			time.Sleep(100 * time.Millisecond) // wait, so that the other calls of Create start during the pull
		}
		handler.ServeHTTP(w, r)
	}))
	defer server.Close()
	ref := strings.TrimPrefix(server.URL, "http://") + "/some/tool:1"
	named, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(named, twoLayers(t)); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			s := spec(ref)
			if err := e.Create(t.Context(), s); err != nil {
				t.Errorf("Create: %v", err)
				return
			}
			config, err := os.ReadFile(e.ConfigFile(s.ID))
			if err != nil || !strings.Contains(string(config), `"PATH=/image/bin:/bin"`) || strings.Contains(string(config), "A=b") {
				t.Errorf("the configuration is %s, %v, want the image's PATH, and no more of its environment", config, err)
			}
			if err := e.Remove(t.Context(), s.ID); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	wantUnpacked(t, images)
	if n := manifests.Load(); n != 1 {
		t.Errorf("the manifest was asked for %d times, want once", n)
	}
	server.Close() // Create needs no registry for an unpacked image
	s := spec(ref)
	if err := e.Create(t.Context(), s); err != nil {
		t.Errorf("Create: %v", err)
	}
	if err := e.Remove(t.Context(), s.ID); err != nil {
		t.Error(err)
	}
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
	foreign := imageOf(t, []tar.Header{{Name: "x", Typeflag: tar.TypeReg}})
	config, _ := foreign.ConfigFile() // can't fail: imageOf has written the configuration
	config = config.DeepCopy()
	config.Architecture = "s390x"
	foreign, err := mutate.ConfigFile(foreign, config)
	if err != nil {
		t.Fatal(err)
	}
	write(host+"/foreign:1", foreign)
	write(host+"/escape:1", imageOf(t, []tar.Header{{Name: "../../out", Typeflag: tar.TypeReg}}))
	for _, test := range []struct {
		ref, says string
		kind      sandbox.Kind
	}{
		{"Not A Name", "no name", sandbox.Invalid},
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
	// If the context ends during a pull, Create returns the error of a pull that is still in progress. Close ends the
	// pull.
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := e.Create(ctx, spec(host+"/hangs:1")); sandbox.KindOf(err) != sandbox.Unavailable || !strings.Contains(err.Error(), "still being pulled") {
		t.Errorf("Create = %v, want it still pulled", err)
	}
	began := time.Now()
	if err := e.Close(); err != nil || time.Since(began) > 5*time.Second {
		t.Errorf("Close = %v after %v", err, time.Since(began))
	}
	if left, _ := filepath.Glob(filepath.Join(images, "*", "rootfs")); len(left) > 0 {
		t.Errorf("%q are left", left)
	}
}

// saveImage writes an image as `docker save` does.
func saveImage(path string, img v1.Image) error {
	tag, err := name.NewTag("some/tool:1")
	if err != nil {
		return err
	}
	return tarball.WriteToFile(path, tag, img)
}

// TestAnImageIsLoaded checks that LoadImage imports an image from a tar or an OCI layout, without a registry.
func TestAnImageIsLoaded(t *testing.T) {
	for name, write := range map[string]func(t *testing.T, path string, img v1.Image) error{
		"docker save": func(_ *testing.T, path string, img v1.Image) error { return saveImage(path, img) },
		"an OCI layout": func(_ *testing.T, path string, img v1.Image) error {
			p, err := layout.Write(path, empty.Index)
			if err != nil {
				return err
			}
			return p.AppendImage(img, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "some/tool:1"}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			e, images := openPulling(t)
			path := filepath.Join(tempDir(t), "image")
			if err := write(t, path, twoLayers(t)); err != nil {
				t.Fatal(err)
			}
			for _, asked := range []string{"", "other:2"} {
				ref, err := e.LoadImage(t.Context(), path, asked)
				if want := map[string]string{"": "some/tool:1", "other:2": "other:2"}[asked]; err != nil || ref != want {
					t.Fatalf("LoadImage = %s, %v, want %s", ref, err, want)
				}
				if has, err := e.HasImage(t.Context(), ref); !has || err != nil {
					t.Errorf("HasImage = %v, %v", has, err)
				}
			}
			wantUnpacked(t, images)
			s := spec("other:2")
			if err := e.Create(t.Context(), s); err != nil {
				t.Errorf("Create: %v", err)
			}
			if err := e.Remove(t.Context(), s.ID); err != nil {
				t.Error(err)
			}
		})
	}
	e, _ := openPulling(t)
	for what, path := range map[string]string{"nothing": "/no/such", "no image": tempDir(t), "no tar": "/etc/hosts"} {
		if _, err := e.LoadImage(t.Context(), path, "x:1"); sandbox.KindOf(err) != sandbox.Invalid {
			t.Errorf("LoadImage of %s = %v, want invalid", what, err)
		}
	}
}

// TestAForgedLayerIsRefused checks that LoadImage refuses an OCI layout with a layer whose digest is not the one in the
// image's configuration.
func TestAForgedLayerIsRefused(t *testing.T) {
	e, images := openPulling(t)
	path := filepath.Join(tempDir(t), "image")
	p, err := layout.Write(path, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	img := twoLayers(t)
	if err := p.AppendImage(img); err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digests := make([]string, 2)
	for i, layer := range layers {
		d, err := layer.Digest()
		if err != nil {
			t.Fatal(err)
		}
		digests[i] = filepath.Join(path, "blobs", "sha256", d.Hex)
	}
	other, err := os.ReadFile(digests[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(digests[0], other, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := e.LoadImage(t.Context(), path, "x:1"); err == nil {
		t.Error("LoadImage gave no error")
	}
	if left, _ := filepath.Glob(filepath.Join(images, "*", "rootfs")); len(left) > 0 {
		t.Errorf("%q are left", left)
	}
}
