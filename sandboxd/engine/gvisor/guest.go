package gvisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/dormouse-sandbox/dormouse/sandboxd/durable"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
)

// installGuest writes the guest's files, if they are missing or incomplete, and returns the name of their folder. It
// renames the folder to that name after all files are written and synced.
func (e *Engine) installGuest() (string, error) {
	e.guestMu.Lock()
	defer e.guestMu.Unlock()
	if e.guest != "" {
		return e.guest, nil
	}
	name := e.guestName()
	dir := e.layout.Guest(name)
	files, err := e.bundle.Files(runtime.GOARCH)
	if err != nil {
		return "", err
	}
	if sameSizes(dir, files) {
		e.guest = name
		return name, nil
	}
	making, err := os.MkdirTemp(filepath.Dir(dir), ".making-*")
	if err != nil {
		return "", err
	}
	// If a step fails, this removes the new folder. Otherwise it removes the damaged folder that the new folder has
	// replaced, if any.
	defer os.RemoveAll(making)
	if err := errors.Join(writeTree(making, files), os.Chmod(making, 0o755), folder.SyncAll(making)); err != nil {
		return "", fmt.Errorf("install the guest: %w", err)
	}
	if err := e.layout.MoveOrExchange(making, dir); err != nil {
		return "", fmt.Errorf("install the guest: %w", err)
	}
	e.guest = name
	return name, nil
}

func (e *Engine) guestName() string { return e.bundle.ID() + "-" + runtime.GOARCH }

// sameSizes reports whether a folder has all of the files, with the same sizes.
func sameSizes(dir string, files fs.FS) bool {
	return nil == fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		want, err := entry.Info()
		if err != nil {
			return err
		}
		have, err := os.Lstat(filepath.Join(dir, filepath.FromSlash(name)))
		if err == nil && (!have.Mode().IsRegular() || have.Size() != want.Size()) {
			err = folder.ErrDamaged
		}
		return err
	})
}

// writeTree writes files to a folder. All users can read them, independently of the umask, and the file "guest" is
// executable.
func writeTree(dir string, files fs.FS) error {
	return fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		path := filepath.Join(dir, filepath.FromSlash(name))
		if entry.IsDir() {
			return errors.Join(os.MkdirAll(path, 0o755), os.Chmod(path, 0o755))
		}
		data, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if name == "guest" {
			mode = 0o755
		}
		return durable.Replace(path, data, mode) // the caller syncs all files together
	})
}
