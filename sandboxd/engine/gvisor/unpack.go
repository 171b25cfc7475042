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
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// unpack writes a tar's files below dir, which nothing in it can leave: os.Root follows no
// link out of it. Owners are kept if we are root. Devices and pipes are left out, because
// a sandbox has its own /dev, and set-user-id bits, because they would be the host's too.
func unpack(dir string, source io.Reader) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	buffered := bufio.NewReaderSize(source, 1<<20)
	archive := tar.NewReader(buffered)
	var folders []*tar.Header
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		header.Name = path.Clean("./" + header.Name)
		if header.Typeflag == tar.TypeDir {
			folders = append(folders, header)
		}
		if err := unpackOne(root, header, archive); err != nil {
			return fmt.Errorf("unpack %q: %w", header.Name, err)
		}
	}
	// The digest is of the whole stream, with what stands after the tar's end.
	if _, err := io.Copy(io.Discard, buffered); err != nil {
		return err
	}
	if err := mountPoints(root); err != nil {
		return err
	}
	for _, h := range folders { // their times changed with what was put into them
		if err := finish(root, h); err != nil {
			return fmt.Errorf("unpack %q: %w", h.Name, err)
		}
	}
	return nil
}

func unpackOne(root *os.Root, h *tar.Header, content io.Reader) error {
	if h.Name == "." {
		return nil
	}
	if parent := path.Dir(h.Name); parent != "." {
		if err := root.MkdirAll(parent, 0o755); err != nil {
			return err
		}
	}
	if h.Typeflag != tar.TypeDir {
		if err := root.Remove(h.Name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return root.MkdirAll(h.Name, 0o755)
	case tar.TypeReg:
		file, err := root.OpenFile(h.Name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(file, content)
		if err = errors.Join(err, file.Close()); err != nil {
			return err
		}
		return finish(root, h)
	case tar.TypeSymlink:
		if err := root.Symlink(h.Linkname, h.Name); err != nil {
			return err
		}
		return own(root, h)
	case tar.TypeLink:
		return root.Link(path.Clean("./"+h.Linkname), h.Name)
	}
	return nil
}

// finish gives a file or folder its owner, mode and time.
func finish(root *os.Root, h *tar.Header) error {
	if err := own(root, h); err != nil {
		return err
	}
	mode := h.FileInfo().Mode() & (fs.ModePerm | fs.ModeSticky)
	if h.Name == "." {
		mode = 0o755
	}
	if err := root.Chmod(h.Name, mode); err != nil {
		return err
	}
	// Python compares it with what is in its compiled files.
	return root.Chtimes(h.Name, time.Time{}, h.ModTime)
}

func own(root *os.Root, h *tar.Header) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return root.Lchown(h.Name, h.Uid, h.Gid)
}

// mountPoints makes what the profile mounts on, so that nobody makes it later: sandboxes share
// the files.
func mountPoints(root *os.Root) error {
	for _, dir := range []string{"proc", "sys", "dev", "dev/pts", "dev/shm", "tmp", "etc",
		sandbox.Workspace[1:], engine.RunDir[1:], engine.BundleDir[1:]} {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for name := range etcFiles {
		name = "etc/" + name
		if info, err := root.Lstat(name); err == nil && info.Mode().IsRegular() {
			continue
		} else if err == nil {
			if err := root.Remove(name); err != nil { // a link to somewhere else
				return err
			}
		}
		if err := root.WriteFile(name, nil, 0o644); err != nil {
			return err
		}
	}
	return nil
}
