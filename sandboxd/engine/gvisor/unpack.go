package gvisor

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// What an image may be at most, unpacked: nobody's sandbox needs more, and a bomb stops there.
const (
	maxImageBytes = 24 << 30
	maxImageFiles = 2_000_000
)

// tree is a root file system that is unpacked from tars, its layers, one over the other. Nothing in them can
// leave it: os.Root follows no link out, and links are followed as they will be inside. Owners are kept if
// we are root. Devices and pipes are left out, because a sandbox has its own /dev, and set-user-id bits,
// because they would be the host's too.
type tree struct {
	root    *os.Root
	folders map[string]*tar.Header // they get their mode and time in the end
	real    map[string]bool        // folders that are no links, nor below any
	bytes   int64                  // that may still come
	files   int
}

// unpack writes layers below dir.
func unpack(dir string, layers ...io.Reader) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	t := &tree{root: root, folders: map[string]*tar.Header{}, real: map[string]bool{}, bytes: maxImageBytes, files: maxImageFiles}
	for _, layer := range layers {
		if err := t.apply(layer); err != nil {
			return err
		}
	}
	return t.finish()
}

// apply writes a layer over those that are there. It reads all of it, with what stands after the tar's end:
// its digest is of the whole.
func (t *tree) apply(layer io.Reader) error {
	buffered := bufio.NewReaderSize(layer, 1<<20)
	archive := tar.NewReader(buffered)
	own := map[string]bool{} // what this layer has brought, which its whiteouts do not hide
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			_, err := io.Copy(io.Discard, buffered)
			return err
		}
		if err != nil {
			return err
		}
		if err := t.applyOne(header, archive, own); err != nil {
			return fmt.Errorf("unpack %q: %w", header.Name, err)
		}
	}
}

// Names that say what is hidden of the layers below.
const (
	whiteout       = ".wh."
	opaqueWhiteout = ".wh..wh..opq"
)

func (t *tree) applyOne(h *tar.Header, content io.Reader, own map[string]bool) error {
	if t.files--; t.files < 0 {
		return sandbox.Errorf(sandbox.Limit, "the image has more than %d files", maxImageFiles)
	}
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
		return errors.New("it hides nothing that there could be")
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
		t.folders["."] = h
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
		t.folders[h.Name] = h
		return t.root.MkdirAll(h.Name, 0o755)
	case tar.TypeReg:
		if t.bytes -= h.Size; t.bytes < 0 {
			return sandbox.Errorf(sandbox.Limit, "the image is larger than %d GB", maxImageBytes>>30)
		}
		file, err := t.root.OpenFile(h.Name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(file, content)
		if err = errors.Join(err, file.Close()); err != nil {
			return err
		}
		return t.settle(h)
	case tar.TypeSymlink:
		if err := t.root.Symlink(h.Linkname, h.Name); err != nil {
			return err
		}
		return t.own(h)
	case tar.TypeLink:
		old, err := t.place(h.Linkname)
		if err != nil {
			return err
		}
		return t.root.Link(old, h.Name)
	}
	return nil
}

// place is where a name leads, below the root and with no link on the way to it. The folders above it are made.
func (t *tree) place(name string) (string, error) {
	name = path.Clean("./" + name)
	if !fs.ValidPath(name) {
		return "", errors.New("it is outside of the image")
	}
	if name == "." {
		return name, nil
	}
	parent, base := path.Split(name)
	dir, err := t.folder(path.Clean(parent))
	return path.Join(dir, base), err
}

// folder follows the links in the name of a folder, as they will be followed inside, and makes what is not there.
func (t *tree) folder(name string) (string, error) {
	if t.real[name] || name == "." {
		return name, nil
	}
	at, rest, links := ".", strings.Split(name, "/"), 0
	for len(rest) > 0 {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at) // of ".", itself: nothing is above the root
			continue
		}
		next := path.Join(at, part)
		info, err := t.root.Lstat(next)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			err = errors.Join(t.root.Mkdir(next, 0o755), t.root.Chmod(next, 0o755)) // whatever the umask
		case err == nil && info.Mode()&fs.ModeSymlink != 0:
			if links++; links > 40 {
				return "", errors.New("its links have no end")
			}
			target, err := t.root.Readlink(next)
			if err != nil {
				return "", err
			}
			if path.IsAbs(target) {
				at = "."
			}
			rest = append(strings.Split(target, "/"), rest...)
			continue
		case err == nil && !info.IsDir():
			err = errors.New("a part of its path is no folder")
		}
		if err != nil {
			return "", err
		}
		at = next
	}
	t.real[at] = true
	return at, nil
}

// remove removes what is there.
func (t *tree) remove(name string) error {
	clear(t.real)
	delete(t.folders, name)
	return t.root.RemoveAll(name)
}

// hideAll removes what is in a folder, but for what own has.
func (t *tree) hideAll(name string, own map[string]bool) error {
	entries, err := fs.ReadDir(t.root.FS(), name)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		below := path.Join(name, entry.Name())
		switch {
		case !own[below]:
			err = t.remove(below)
		case entry.IsDir():
			err = t.hideAll(below, own)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// finish makes what is mounted on, and gives the folders their modes.
func (t *tree) finish() error {
	if err := t.mountPoints(); err != nil {
		return err
	}
	for name, h := range t.folders { // their times changed with what was put into them
		info, err := t.root.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
			continue // hidden by a layer, with a folder above it
		}
		if err == nil {
			err = t.settle(h)
		}
		if err != nil {
			return fmt.Errorf("unpack %q: %w", name, err)
		}
	}
	return nil
}

// settle gives a file or folder its owner, mode and time.
func (t *tree) settle(h *tar.Header) error {
	if err := t.own(h); err != nil {
		return err
	}
	mode := h.FileInfo().Mode() & (fs.ModePerm | fs.ModeSticky)
	if h.Name == "." {
		mode = 0o755
	}
	if h.Typeflag == tar.TypeDir && rootless() {
		mode |= 0o700 // or its owner could not remove what is in it
	}
	if err := t.root.Chmod(h.Name, mode); err != nil {
		return err
	}
	// Python compares it with what is in its compiled files.
	return t.root.Chtimes(h.Name, time.Time{}, h.ModTime)
}

func (t *tree) own(h *tar.Header) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return t.root.Lchown(h.Name, h.Uid, h.Gid)
}

// mountPoints makes what the profile mounts on, so that nobody makes it later: sandboxes share
// the files.
func (t *tree) mountPoints() error {
	for _, dir := range []string{"proc", "sys", "dev", "dev/pts", "dev/shm", "tmp", "etc",
		sandbox.Workspace[1:], engine.RunDir[1:], engine.BundleDir[1:]} {
		if _, err := t.folder(dir); err != nil {
			return fmt.Errorf("make /%s: %w", dir, err)
		}
	}
	for name := range etcFiles {
		name, err := t.place("etc/" + name)
		if err != nil {
			return err
		}
		if info, err := t.root.Lstat(name); err == nil && info.Mode().IsRegular() {
			continue
		} else if err == nil {
			if err := t.remove(name); err != nil { // a link to somewhere else
				return err
			}
		}
		if err := errors.Join(t.root.WriteFile(name, nil, 0o644), t.root.Chmod(name, 0o644)); err != nil {
			return err
		}
	}
	return nil
}
