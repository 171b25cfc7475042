package gvisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// installGuest writes the guest's files, if they are not there, and returns the name of
// their folder. It gets its name when it is whole, and is never written again.
func (e *Engine) installGuest() (string, error) {
	e.guestOnce.Lock()
	defer e.guestOnce.Unlock()
	if e.guest != "" {
		return e.guest, nil
	}
	name := e.bundle.ID() + "-" + runtime.GOARCH
	dir := e.layout.guest(name)
	if _, err := os.Stat(dir); err == nil {
		e.guest = name
		return name, nil
	}
	files, err := e.bundle.Files(runtime.GOARCH)
	if err != nil {
		return "", err
	}
	making, err := os.MkdirTemp(filepath.Dir(dir), ".making-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(making) // there only if something failed
	if err := errors.Join(writeTree(making, files), os.Chmod(making, 0o755), syncAll(making)); err != nil {
		return "", fmt.Errorf("install the guest: %w", err)
	}
	if err := os.Rename(making, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("install the guest: %w", err)
	}
	e.guest = name
	return name, nil
}

// writeTree writes files for everybody to read, whatever the umask, the guest executable.
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
		return writeFile(path, data, mode)
	})
}
