package rootfs

import (
	"bytes"
	"context"
	"io"

	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Unpack unpacks layers to a folder.
func Unpack(dir string, layers ...io.Reader) error {
	i := Open("")
	defer i.Close()
	return i.unpackLayers(context.Background(), dir, layers...)
}

// ArchivedConfig returns the size of the image configuration that the registry library reads from the `docker save` tar
// in text. It returns an error if checkArchive refuses the tar.
func ArchivedConfig(text []byte) (int, error) {
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil }
	if _, err := checkArchive(open); err != nil {
		return 0, err
	}
	img, err := tarball.Image(open, nil)
	if err != nil {
		return 0, err
	}
	raw, err := img.RawConfigFile()
	return len(raw), err
}
