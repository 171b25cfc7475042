package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// place returns the path that a name refers to, relative to the root and with all links in its parent folders resolved. It
// creates missing parent folders.
func (t *tree) place(name string) (string, error) {
	name = path.Clean("./" + name)
	if !fs.ValidPath(name) {
		return "", errors.New("it is outside of the image")
	}
	if name == "." {
		return name, nil
	}
	if err := checkPath(name); err != nil {
		return "", err
	}
	parent, base := path.Split(name)
	dir, err := t.folder(path.Clean(parent))
	if err != nil {
		return "", err
	}
	name = path.Join(dir, base)
	return name, checkPath(name)
}

// folder resolves the links in the path of a folder, as they will be resolved in the sandbox, and creates missing folders.
// It returns the path without links.
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
			at = path.Dir(at) // the parent of "." is "."
			continue
		}
		next := path.Join(at, part)
		if err := errors.Join(t.ctx.Err(), checkPath(next)); err != nil {
			return "", err
		}
		info, err := t.root.Lstat(next)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			// Set the mode again, because the umask can remove bits from the mode of Mkdir.
			err = errors.Join(t.count(), t.root.Mkdir(next, 0o755), t.root.Chmod(next, 0o755))
		case err == nil && info.Mode()&fs.ModeSymlink != 0:
			if links++; links > 40 {
				return "", errors.New("its path has too many symbolic links")
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
			err = errors.New("a part of its path is not a folder")
		}
		if err != nil {
			return "", err
		}
		at = next
	}
	t.real[at] = true
	return at, nil
}

// remove removes a file, or a folder and everything in it.
func (t *tree) remove(name string) error {
	clear(t.real)
	delete(t.folders, name)
	return t.wait(t.ctx, func() error { return t.root.RemoveAll(name) })
}

// hideAll removes everything in a folder, except for the paths in own, which are the paths in the current layer.
func (t *tree) hideAll(name string, own map[string]bool) error {
	entries, err := fs.ReadDir(t.root.FS(), name)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		below := path.Join(name, entry.Name())
		err := t.ctx.Err()
		switch {
		case err != nil:
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

// finish creates the mount points, and sets the owners, modes and times of all folders.
func (t *tree) finish() error {
	if err := t.mountPoints(); err != nil {
		return err
	}
	for name, a := range t.folders { // set the attributes last, because creating a file in a folder changes the folder's time
		if err := t.ctx.Err(); err != nil {
			return err
		}
		info, err := t.root.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
			continue // a later layer has hidden or replaced the folder or one of its parent folders
		}
		if err == nil {
			err = t.setAttributes(name, a)
		}
		if err != nil {
			return fmt.Errorf("unpack %q: %w", name, err)
		}
	}
	return nil
}

// setAttributes sets the owner, mode and modification time of a file or folder.
func (t *tree) setAttributes(name string, a attributes) error {
	if err := t.own(name, a); err != nil {
		return err
	}
	mode := a.mode & (fs.ModePerm | fs.ModeSticky)
	if name == "." {
		mode = 0o755
	}
	if a.mode.IsDir() && os.Geteuid() != 0 {
		mode |= 0o700 // otherwise the daemon's user could not remove the files in it
	}
	if err := t.root.Chmod(name, mode); err != nil {
		return err
	}
	// Keep the time of each file. Python uses a compiled file only if the time recorded in it equals the time of the
	// source file.
	return t.root.Chtimes(name, time.Time{}, a.modified)
}

func (t *tree) own(name string, a attributes) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return t.root.Lchown(name, a.uid, a.gid)
}

// mountPoints creates the files and folders over which the profile mounts others. If they were missing, they would be
// created when a sandbox starts, in the root file system that all sandboxes share.
func (t *tree) mountPoints() error {
	for _, dir := range []string{"proc", "sys", "dev", "dev/pts", "dev/shm", "tmp", "etc",
		sandbox.Workspace[1:], engine.RunDir[1:], engine.BundleDir[1:]} {
		if _, err := t.folder(dir); err != nil {
			return fmt.Errorf("make /%s: %w", dir, err)
		}
	}
	for name := range folder.EtcFiles {
		name, err := t.place("etc/" + name)
		if err != nil {
			return err
		}
		if info, err := t.root.Lstat(name); err == nil && info.Mode().IsRegular() {
			continue
		} else if err == nil {
			if err := t.remove(name); err != nil { // the path is not a regular file but, for example, a link
				return err
			}
		}
		if err := errors.Join(t.root.WriteFile(name, nil, 0o644), t.root.Chmod(name, 0o644)); err != nil {
			return err
		}
	}
	return nil
}
