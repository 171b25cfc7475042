package rootfs

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Limits of an unpacked image. No real image needs more, and they stop archives that are made to fill the disk.
const (
	maxImageBytes = 24 << 30
	maxImageFiles = 1_000_000 // the number of files, including folders and files that a later layer hides
	// Limits of each path, before and after its links are followed. The depth is limited because resolving each folder
	// of a path takes time.
	maxPath  = 4 << 10 // bytes
	maxDepth = 128     // folders
	// Limits of a tar's headers.
	maxHeaderBytes = 64 << 10  // the names and extended attributes of one header
	maxNameBytes   = 256 << 20 // the names of all headers
	maxOtherBytes  = 4 << 30   // everything that is not the content of a file
)

// tree is a root file system that is being unpacked from the tars of its layers, one over the other. A layer can't write
// outside of the tree: os.Root follows no link that leads out of it, and the tree resolves links as they will be resolved
// in the sandbox. Files keep their owners if the daemon is root. Devices and pipes are left out, because a sandbox has its
// own /dev. Set-user-id bits are removed, because they would also apply on the host.
type tree struct {
	ctx     context.Context
	wait    func(ctx context.Context, fn func() error) error // the method [Images.waitFor]
	root    *os.Root
	folders map[string]attributes // the attributes of folders, which finish sets
	real    map[string]bool       // true for a folder whose path contains no link

	// How much may still be unpacked: content of files, names, bytes of all layers, and number of files.
	bytes, names, input int64
	files               int
}

// attributes are set on a file or folder when its content is complete.
type attributes struct {
	mode     fs.FileMode
	uid, gid int
	modified time.Time
}

func attributesOf(h *tar.Header) attributes {
	return attributes{h.FileInfo().Mode(), h.Uid, h.Gid, h.ModTime}
}

// unpackLayers unpacks layers, which are tars, to the folder dir. It fails when ctx ends.
func (i *Images) unpackLayers(ctx context.Context, dir string, layers ...io.Reader) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	t := &tree{ctx: ctx, wait: i.waitFor, root: root, folders: map[string]attributes{}, real: map[string]bool{},
		bytes: maxImageBytes, names: maxNameBytes, input: maxImageBytes + maxOtherBytes, files: maxImageFiles}
	for _, layer := range layers {
		if err := t.apply(layer); err != nil {
			return err
		}
	}
	return t.finish()
}

// apply unpacks a layer over the previous ones. It also reads the data after the tar's end, because the digest of a layer
// covers all of its bytes.
func (t *tree) apply(layer io.Reader) error {
	buffered := bufio.NewReaderSize(boundedInput{t, layer}, 1<<20)
	archive := tar.NewReader(buffered)
	own := map[string]bool{} // the paths in this layer; whiteouts in the same layer do not hide them
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			_, err := io.Copy(io.Discard, buffered)
			return err
		}
		if err != nil {
			return err
		}
		if err := t.admit(header); err != nil {
			return err
		}
		if header.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := t.applyOne(header, archive, own); err != nil {
			return fmt.Errorf("unpack %q: %w", header.Name, err)
		}
	}
}

// boundedInput reads a layer. Its bytes count towards the limit for all layers of the image.
type boundedInput struct {
	t *tree
	io.Reader
}

func (b boundedInput) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if b.t.input -= int64(n); b.t.input < 0 {
		return 0, errTooMuch()
	}
	return n, err
}

func errTooMuch() error {
	return sandbox.Errorf(sandbox.Limit, "the image is larger than %d GB", maxImageBytes>>30)
}

// admit counts a header towards the limits of the image. It refuses the header if it is too large, or if one of these
// limits is exceeded.
func (t *tree) admit(h *tar.Header) error {
	if err := t.ctx.Err(); err != nil {
		return err
	}
	names := len(h.Name) + len(h.Linkname)
	size := names
	for key, value := range h.PAXRecords {
		size += len(key) + len(value)
	}
	switch t.names -= int64(names); {
	case len(h.Name) > maxPath || len(h.Linkname) > maxPath:
		return errLongPath()
	case size > maxHeaderBytes:
		return sandbox.Errorf(sandbox.Limit, "a header in the image is larger than %d KiB", maxHeaderBytes>>10)
	case t.names < 0:
		return sandbox.Errorf(sandbox.Limit, "the names in the image are larger than %d MiB together", maxNameBytes>>20)
	}
	return t.count()
}

// count counts a file or folder towards the limit of files.
func (t *tree) count() error {
	if t.files--; t.files < 0 {
		return sandbox.Errorf(sandbox.Limit, "the image has more than %d files", maxImageFiles)
	}
	return nil
}

func errLongPath() error {
	return sandbox.Errorf(sandbox.Limit, "a path in the image is longer than %d bytes or has more than %d folders", maxPath, maxDepth)
}

// checkPath refuses a path that is too long or too deep.
func checkPath(name string) error {
	if len(name) > maxPath || strings.Count(name, "/") >= maxDepth {
		return errLongPath()
	}
	return nil
}

// Names of entries that hide files of the layers below.
const (
	whiteout       = ".wh."         // a prefix: the entry hides the file whose name follows the prefix
	opaqueWhiteout = ".wh..wh..opq" // the name of an entry that hides all files of the layers below in the same folder
)

func (t *tree) applyOne(h *tar.Header, content io.Reader, own map[string]bool) error {
	name, err := t.place(h.Name)
	if err != nil {
		return err
	}
	parent, base := path.Split(name)
	parent = path.Clean(parent)
	switch hidden, is := strings.CutPrefix(base, whiteout); {
	case base == opaqueWhiteout:
		return t.hideAll(parent, own)
	case is && (hidden == "" || hidden == "." || hidden == ".."):
		return errors.New("the whiteout does not name a file")
	case is && !own[path.Join(parent, hidden)]:
		return t.remove(path.Join(parent, hidden))
	case is:
		return nil
	}
	for p := name; p != "." && !own[p]; p = path.Dir(p) {
		own[p] = true
	}
	h.Name = name
	if name == "." {
		t.folders["."] = attributesOf(h)
		return nil
	}
	old, err := t.root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case !old.IsDir() || h.Typeflag != tar.TypeDir:
		if err := t.remove(name); err != nil {
			return err
		}
	}
	return t.write(h, content)
}

func (t *tree) write(h *tar.Header, content io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		t.folders[h.Name] = attributesOf(h)
		return t.root.MkdirAll(h.Name, 0o755)
	case tar.TypeReg:
		if t.bytes -= h.Size; t.bytes < 0 {
			return errTooMuch()
		}
		file, err := t.root.OpenFile(h.Name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(file, content)
		if err = errors.Join(err, file.Close()); err != nil {
			return err
		}
		return t.setAttributes(h.Name, attributesOf(h))
	case tar.TypeSymlink:
		if err := t.root.Symlink(h.Linkname, h.Name); err != nil {
			return err
		}
		return t.own(h.Name, attributesOf(h))
	case tar.TypeLink:
		old, err := t.place(h.Linkname)
		if err != nil {
			return err
		}
		return t.root.Link(old, h.Name)
	}
	return nil
}
