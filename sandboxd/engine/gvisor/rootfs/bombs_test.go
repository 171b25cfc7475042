package rootfs_test

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/rootfs"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/rootfs/rootfstest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// bomb returns an image whose configuration was changed by the function change.
func bomb(t *testing.T, change func(*v1.ConfigFile)) v1.Image {
	t.Helper()
	img := rootfstest.Image(t, []tar.Header{{Name: "x", Typeflag: tar.TypeReg}})
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	change(config)
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	return img
}

func writeLayout(path string, img v1.Image) error {
	p, err := layout.Write(path, empty.Index)
	if err != nil {
		return err
	}
	return p.AppendImage(img)
}

// TestImageBombsAreRefused checks that an image that exceeds a limit is refused from every source, and that a good
// image can be imported afterwards.
func TestImageBombsAreRefused(t *testing.T) {
	if testing.Short() {
		t.Skip("takes several seconds: not with -short")
	}
	deep := strings.Repeat("d/", 100)
	one := rootfstest.Image(t, []tar.Header{{Name: "x", Typeflag: tar.TypeReg}})
	layers, err := one.Layers()
	if err != nil {
		t.Fatal(err)
	}
	many := make([]v1.Layer, 1001)
	for i := range many {
		many[i] = layers[0]
	}
	layered, err := mutate.AppendLayers(one, many...)
	if err != nil {
		t.Fatal(err)
	}
	bombs := []struct {
		name string
		img  v1.Image
		says string
	}{
		{"a large configuration", bomb(t, func(c *v1.ConfigFile) { c.Config.Labels = map[string]string{"x": strings.Repeat("a", 9<<20)} }), "configuration is larger"},
		{"a configuration of many values", bomb(t, func(c *v1.ConfigFile) { c.Config.Cmd = make([]string, 200_000) }), "more than 100000 values"},
		{"many layers", layered, "1002 layers"},
		{"a deep path", rootfstest.Image(t, []tar.Header{{Name: strings.Repeat("d/", 4000) + "f", Typeflag: tar.TypeReg}}), "longer than"},
		{"a path of many folders", rootfstest.Image(t, []tar.Header{{Name: strings.Repeat("d/", 128) + "f", Typeflag: tar.TypeReg}}), "more than 128 folders"},
		{"a deep path through links", rootfstest.Image(t, []tar.Header{{Name: deep, Typeflag: tar.TypeDir, Mode: 0o755},
			{Name: "l", Typeflag: tar.TypeSymlink, Linkname: deep}, {Name: "l/" + deep, Typeflag: tar.TypeDir, Mode: 0o755}}), "more than 128 folders"},
		{"a long link", rootfstest.Image(t, []tar.Header{{Name: "l", Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("d", 5000)}}), "longer than"},
		{"a large header", rootfstest.Image(t, []tar.Header{{Name: "x", Typeflag: tar.TypeReg, Mode: 0o600,
			PAXRecords: map[string]string{"SCHILY.xattr.user.x": strings.Repeat("a", 100<<10)}}}), "header"},
	}
	i, images := open(t)
	server := httptest.NewServer(registry.New())
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	importBy := map[string]func(t *testing.T, img v1.Image) error{
		"an OCI layout": func(t *testing.T, img v1.Image) error {
			path := filepath.Join(t.TempDir(), "image")
			if err := writeLayout(path, img); err != nil {
				t.Fatal(err)
			}
			_, err := i.Load(t.Context(), path, "bomb:1")
			return err
		},
		"docker save": func(t *testing.T, img v1.Image) error {
			path := filepath.Join(t.TempDir(), "image")
			if err := rootfstest.Save(path, img); err != nil {
				t.Fatal(err)
			}
			_, err := i.Load(t.Context(), path, "bomb:1")
			return err
		},
		"a registry": func(t *testing.T, img v1.Image) error {
			ref := host + "/bomb:1"
			named, err := name.ParseReference(ref)
			if err == nil {
				err = remote.Write(named, img)
			}
			if err != nil {
				t.Fatal(err)
			}
			_, err = i.FindOrPull(t.Context(), ref)
			return err
		},
	}
	for way, importBy := range importBy {
		for _, b := range bombs {
			t.Run(way+"/"+b.name, func(t *testing.T) {
				err := importBy(t, b.img)
				if sandbox.KindOf(err) != sandbox.Limit || !strings.Contains(sandbox.Public(err).Message, b.says) {
					t.Errorf("the import returned %v (%s), want limit: %s", err, sandbox.KindOf(err), b.says)
				}
			})
		}
	}
	if left, _ := filepath.Glob(filepath.Join(images, "*", "rootfs")); len(left) > 0 {
		t.Errorf("refused images left %q", left)
	}
	if err := importBy["an OCI layout"](t, rootfstest.TwoLayers(t)); err != nil {
		t.Errorf("a good image is refused: %v", err)
	}
}

// TestALargeConfigurationIsNotRead checks that Load refuses a configuration file that is too large without reading
// it.
func TestALargeConfigurationIsNotRead(t *testing.T) {
	i, _ := open(t)
	path := filepath.Join(t.TempDir(), "image")
	img := rootfstest.TwoLayers(t)
	if err := writeLayout(path, img); err != nil {
		t.Fatal(err)
	}
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	// Make the file of the configuration larger than the size that the manifest contains.
	if err := os.Truncate(filepath.Join(path, "blobs", "sha256", m.Config.Digest.Hex), 700<<20); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err = i.Load(t.Context(), path, "x:1")
	runtime.ReadMemStats(&after)
	if sandbox.KindOf(err) != sandbox.Limit {
		t.Errorf("Load = %v, want limit", err)
	}
	if got, maximum := after.TotalAlloc-before.TotalAlloc, uint64(64<<20); got > maximum {
		t.Errorf("Load allocated %d MiB, want at most %d", got>>20, maximum>>20)
	}
}

// TestACancelledImportEnds checks that a cancelled import returns, and that the next import succeeds and removes the
// leftovers of the cancelled one.
func TestACancelledImportEnds(t *testing.T) {
	if testing.Short() {
		t.Skip("takes several seconds: not with -short")
	}
	i, images := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reader, writer := io.Pipe()
	go func() { // writes an endless archive, and cancels the import after 5000 entries
		w := tar.NewWriter(writer)
		for n := 0; ; n++ {
			if n == 5000 {
				cancel()
			}
			name := strings.Repeat("d/", n%100) + "f"
			if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o600}); err != nil {
				return
			}
		}
	}()
	if err := i.Import(ctx, reader, "endless:1"); !errors.Is(err, context.Canceled) {
		t.Errorf("Import = %v, want %v", err, context.Canceled)
	}
	reader.Close()
	if left, _ := filepath.Glob(filepath.Join(images, "making-*")); len(left) > 0 {
		t.Errorf("the cancelled import left %q, want no such folder", left)
	}
	if err := i.Import(t.Context(), rootfstest.Tar(t, tar.Header{Name: "x", Typeflag: tar.TypeReg}), "next:1"); err != nil {
		t.Errorf("the next import fails: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(images, "trash-*")); len(left) > 0 {
		t.Errorf("the next import left %q in the trash", left)
	}
}

// FuzzArchiveIsBounded checks that the configuration in an accepted archive is never larger than the limit.
func FuzzArchiveIsBounded(f *testing.F) {
	path := filepath.Join(f.TempDir(), "image")
	if err := rootfstest.Save(path, empty.Image); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, text []byte) {
		size, err := rootfs.ArchivedConfig(text)
		if err == nil && size > 8<<20 {
			t.Errorf("the configuration has %d bytes, want at most %d", size, 8<<20)
		}
	})
}
