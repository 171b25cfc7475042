package rootfs_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/rootfs"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/rootfs/rootfstest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// open returns the images in a new folder, and the path of the folder.
func open(t *testing.T) (*rootfs.Images, string) {
	t.Helper()
	dir := t.TempDir()
	i := rootfs.Open(dir)
	t.Cleanup(i.Close)
	return i, dir
}

// TestAnImageIsLoaded checks that Load imports an image from a tar or an OCI layout, without a registry.
func TestAnImageIsLoaded(t *testing.T) {
	for name, write := range map[string]func(t *testing.T, path string, img v1.Image) error{
		"docker save": func(_ *testing.T, path string, img v1.Image) error { return rootfstest.Save(path, img) },
		"an OCI layout": func(_ *testing.T, path string, img v1.Image) error {
			p, err := layout.Write(path, empty.Index)
			if err != nil {
				return err
			}
			return p.AppendImage(img, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "some/tool:1"}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			i, images := open(t)
			path := filepath.Join(t.TempDir(), "image")
			if err := write(t, path, rootfstest.TwoLayers(t)); err != nil {
				t.Fatal(err)
			}
			for _, asked := range []string{"", "other:2"} {
				ref, err := i.Load(t.Context(), path, asked)
				if want := map[string]string{"": "some/tool:1", "other:2": "other:2"}[asked]; err != nil || ref != want {
					t.Fatalf("Load = %s, %v, want %s", ref, err, want)
				}
				if has, err := i.Has(ref); !has || err != nil {
					t.Errorf("Has = %v, %v", has, err)
				}
			}
			rootfstest.WantUnpacked(t, images)
			if img, err := i.Find("other:2"); err != nil || img.Path != "/image/bin:/bin" {
				t.Errorf("Find() = %+v, %v, want it with the image's PATH", img, err)
			}
		})
	}
	i, _ := open(t)
	for what, path := range map[string]string{"nothing": "/no/such", "no image": t.TempDir(), "no tar": "/etc/hosts"} {
		if _, err := i.Load(t.Context(), path, "x:1"); sandbox.KindOf(err) != sandbox.Invalid {
			t.Errorf("Load of %s = %v, want invalid", what, err)
		}
	}
}

// TestAForgedLayerIsRefused checks that Load refuses an OCI layout with a layer whose digest is not the one in the
// image's configuration.
func TestAForgedLayerIsRefused(t *testing.T) {
	i, images := open(t)
	path := filepath.Join(t.TempDir(), "image")
	p, err := layout.Write(path, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	img := rootfstest.TwoLayers(t)
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
	if _, err := i.Load(t.Context(), path, "x:1"); err == nil {
		t.Error("Load gave no error")
	}
	if left, _ := filepath.Glob(filepath.Join(images, "*", "rootfs")); len(left) > 0 {
		t.Errorf("%q are left", left)
	}
}

// TestImageWithADamagedNameIsMissing checks that an image counts as missing if the file that connects its name with its
// digest is damaged, and that the image can then be imported again.
func TestImageWithADamagedNameIsMissing(t *testing.T) {
	i, images := open(t)
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := rootfstest.Save(path, rootfstest.TwoLayers(t)); err != nil {
		t.Fatal(err)
	}
	load := func() {
		t.Helper()
		if _, err := i.Load(t.Context(), path, "own:1"); err != nil {
			t.Fatalf("Load: %v", err)
		}
	}
	for how, damage := range map[string]func(own []byte) []byte{
		"missing":         func([]byte) []byte { return nil },
		"empty":           func([]byte) []byte { return []byte{} },
		"torn":            func(own []byte) []byte { return own[:len(own)/2] },
		"garbage":         func(own []byte) []byte { return bytes.Repeat([]byte{0, '.', '/', 0xff}, len(own)/4) },
		"another's":       func([]byte) []byte { return []byte(`{"ref": "own:1", "digest": "../../etc"}`) },
		"an empty object": func([]byte) []byte { return []byte("{}\n") },
	} {
		t.Run(how, func(t *testing.T) {
			load()
			refs, _ := filepath.Glob(filepath.Join(images, "refs", "*.json"))
			if len(refs) != 1 {
				t.Fatalf("the files with names of images are %q, want one", refs)
			}
			own, err := os.ReadFile(refs[0])
			if err != nil {
				t.Fatal(err)
			}
			text := damage(own)
			if text == nil {
				err = os.Remove(refs[0])
			} else {
				err = os.WriteFile(refs[0], text, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			if has, err := i.Has("own:1"); has || err != nil {
				t.Errorf("Has() = %v, %v, want false", has, err)
			}
			load()
			if has, err := i.Has("own:1"); !has || err != nil {
				t.Errorf("Has() = %v, %v after it was loaded again, want true", has, err)
			}
		})
	}
}
