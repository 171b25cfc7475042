package rootfs

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"regexp"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Limits of an image's manifest and configuration, which are held in memory. They are checked before the registry library
// reads an image, because the library's limits are larger or missing.
const (
	maxConfigBytes   = 8 << 20
	maxManifestBytes = 4 << 20 // the usual limit of registries
	// maxJSONCommas limits the number of values in each JSON text. In memory, a short value can take a hundred times
	// the length of its text.
	maxJSONCommas = 100_000
	maxLayers     = 1000 // Docker allows 127 layers
	// maxArchiveEntries limits the entries of a `docker save` tar, which has a few entries for each layer.
	maxArchiveEntries = 10_000
)

func tooLarge(what string, maximum int64) error {
	return sandbox.Errorf(sandbox.Limit, "the image's %s is larger than %d MiB", what, maximum>>20)
}

func tooManyLayers(n int) error {
	return sandbox.Errorf(sandbox.Limit, "the image has %d layers, and may have %d", n, maxLayers)
}

// checkJSON refuses a text that is too large or has too many values.
func checkJSON(text []byte, maximum int, what string) error {
	if len(text) > maximum {
		return tooLarge(what, int64(maximum))
	}
	if bytes.Count(text, []byte{','}) > maxJSONCommas {
		return tooManyValues(what)
	}
	return nil
}

func tooManyValues(what string) error {
	return sandbox.Errorf(sandbox.Limit, "the image's %s has more than %d values", what, maxJSONCommas)
}

// checkManifest refuses an image if its manifest is too large, if the manifest names too many layers, or if the size of
// the configuration, as given in the manifest, is too large. For an image from a registry, this check of the
// configuration is sufficient, because the registry client reads no more bytes of a configuration than that size.
func checkManifest(img v1.Image) error {
	text, err := img.RawManifest()
	if err == nil {
		err = checkJSON(text, maxManifestBytes, "manifest")
	}
	if err != nil {
		return err
	}
	m, err := img.Manifest()
	switch {
	case err != nil:
		return err
	case m.Config.Size > maxConfigBytes:
		return tooLarge("configuration", maxConfigBytes)
	case len(m.Layers) > maxLayers:
		return tooManyLayers(len(m.Layers))
	}
	return nil
}

func blobFile(layout string, digest v1.Hash) string {
	return filepath.Join(layout, "blobs", digest.Algorithm, digest.Hex)
}

// checkBlobs refuses an image in an OCI layout if the file of its configuration or of a layer is too large, or is not a
// regular file.
func checkBlobs(layout string, img v1.Image) error {
	if err := checkManifest(img); err != nil {
		return err
	}
	m, err := img.Manifest()
	if err != nil {
		return err
	}
	if err := checkFile(blobFile(layout, m.Config.Digest), maxConfigBytes, "configuration"); err != nil {
		return err
	}
	for _, layer := range m.Layers {
		if err := checkFile(blobFile(layout, layer.Digest), maxImageBytes, "layer"); err != nil {
			return err
		}
	}
	return nil
}

// checkFile refuses a file of more than maximum bytes. It also refuses a file that is not a regular file, because
// opening a pipe can block forever.
func checkFile(name string, maximum int64, what string) error {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("the image's %s is not a regular file", what)
	case info.Size() > maximum:
		return tooLarge(what, maximum)
	}
	return nil
}

// archiveEntry is an entry of a tar.
type archiveEntry struct {
	size int64
	link string // the name of the entry that this entry links to, or empty
}

// checkArchive reads the headers of a `docker save` tar and returns the description of the only image in it. It refuses
// a tar that contains no image or several, and a tar whose description or configuration is too large.
func checkArchive(open tarball.Opener) (described tarball.Descriptor, err error) {
	file, err := open()
	if err != nil {
		return described, err
	}
	defer file.Close()
	const manifest = "manifest.json"
	entries := map[string]archiveEntry{}
	var list tarball.Manifest
	archive := tar.NewReader(file)
	for n := 0; ; n++ {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return described, err
		}
		if n >= maxArchiveEntries {
			return described, sandbox.Errorf(sandbox.Limit, "the archive has more than %d entries, so `docker save` did not write it", maxArchiveEntries)
		}
		if len(h.Name) > maxPath || len(h.Linkname) > maxPath {
			return described, sandbox.Errorf(sandbox.Limit, "a name in the archive is longer than %d bytes", maxPath)
		}
		name := path.Clean(h.Name)
		if _, again := entries[name]; again {
			continue // if several entries have this name, the library reads the first one
		}
		entry := archiveEntry{size: h.Size}
		if h.Typeflag == tar.TypeSymlink || h.Typeflag == tar.TypeLink {
			entry.link = path.Join(path.Dir(name), path.Clean(h.Linkname))
		}
		entries[name] = entry
		if name != manifest {
			continue
		}
		if entry.link != "" {
			return described, fmt.Errorf("%s is a link", manifest)
		}
		if entry.size > maxManifestBytes {
			return described, tooLarge("manifest", maxManifestBytes)
		}
		text, err := io.ReadAll(archive)
		if err == nil {
			err = checkJSON(text, maxManifestBytes, "manifest")
		}
		if err == nil {
			err = json.Unmarshal(text, &list)
		}
		if err != nil {
			return described, err
		}
	}
	switch {
	case list == nil:
		return described, fmt.Errorf("it has no %s", manifest)
	case len(list) != 1:
		return described, sandbox.Errorf(sandbox.Invalid, "it has %d images, and must have one", len(list))
	}
	described = list[0]
	if len(described.Layers) > maxLayers {
		return described, tooManyLayers(len(described.Layers))
	}
	name := path.Clean(described.Config)
	config := entries[name]
	for links := 0; config.link != ""; links++ {
		if links == 10 {
			return described, errors.New("its configuration is behind too many links")
		}
		config = entries[config.link]
	}
	if config.size > maxConfigBytes {
		return described, tooLarge("configuration", maxConfigBytes)
	}
	return described, nil
}

// boundedTransport limits the size of a registry's responses. It does not limit a response that contains a blob: the
// manifest contains the size of each blob, and the registry client reads no more bytes than that.
type boundedTransport struct{ http.RoundTripper }

// blobPath matches the path of a blob. It does not match the path of a manifest, even if the name of the repository
// contains "blobs".
var blobPath = regexp.MustCompile(`/blobs/[a-z0-9+._-]+:[0-9a-f]+$`)

func (t boundedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	for from := req; ; from = from.Response.Request { // from the redirected request back to the original request
		if blobPath.MatchString(from.URL.Path) {
			return resp, nil
		}
		if from.Response == nil {
			break
		}
	}
	resp.Body = &boundedBody{ReadCloser: resp.Body, bytes: maxManifestBytes, commas: maxJSONCommas}
	return resp, nil
}

type boundedBody struct {
	io.ReadCloser
	bytes, commas int // how many bytes and commas may still be read
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.bytes -= n; b.bytes < 0 {
		return 0, tooLarge("manifest", maxManifestBytes)
	}
	if b.commas -= bytes.Count(p[:n], []byte{','}); b.commas < 0 {
		return 0, tooManyValues("manifest")
	}
	return n, err
}
