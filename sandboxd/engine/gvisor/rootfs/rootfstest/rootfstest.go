// Package rootfstest has images for tests of package rootfs and of the gVisor engine.
package rootfstest

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Tar returns a tar with the given headers. The content of each file is its name.
func Tar(t *testing.T, headers ...tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		h.ModTime = time.Unix(1_600_000_000, 0)
		h.Uid, h.Gid = os.Getuid(), os.Getgid()
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte(h.Name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// Image returns an image for this machine with the given layers.
func Image(t *testing.T, layers ...[]tar.Header) v1.Image {
	t.Helper()
	img := empty.Image
	for _, headers := range layers {
		text := Tar(t, headers...).Bytes()
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

// TwoLayers returns an image of two layers. The second layer hides a file of the first one.
func TwoLayers(t *testing.T) v1.Image {
	return Image(t, []tar.Header{
		{Name: "image/bin/tool", Typeflag: tar.TypeReg, Mode: 0o4755},
		{Name: "old", Typeflag: tar.TypeReg, Mode: 0o644},
	}, []tar.Header{{Name: ".wh.old", Typeflag: tar.TypeReg}, {Name: "new", Typeflag: tar.TypeReg, Mode: 0o644}})
}

// Save writes an image as `docker save` does.
func Save(path string, img v1.Image) error {
	tag, err := name.NewTag("some/tool:1")
	if err != nil {
		return err
	}
	return tarball.WriteToFile(path, tag, img)
}

// WantUnpacked fails the test unless the image of [TwoLayers] is the only unpacked image.
func WantUnpacked(t *testing.T, images string) {
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
