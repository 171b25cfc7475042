package folder

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dormouse-sandbox/dormouse/sandboxd/durable"
)

// MoveOrExchange moves the folder making to the path to, in one step, and syncs the parent folder. If there is a folder
// at that path already, the two folders exchange their names.
func (l Layout) MoveOrExchange(making, to string) error {
	err := os.Rename(making, to)
	if err != nil && Exists(to) {
		err = exchange(making, to)
	}
	// If the file system can't exchange names, the old folder is removed first. A power cut between the two steps then
	// leaves neither folder at the path.
	if errors.Is(err, errors.ErrUnsupported) {
		err = errors.Join(l.Discard(to), os.Rename(making, to))
	}
	if err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(to))
}

// Discard removes a folder, if it exists. It renames the folder first, so that the folder is never seen half removed.
func (l Layout) Discard(dir string) error {
	trash, err := l.Trash(dir)
	if err != nil || trash == "" {
		return err
	}
	return os.RemoveAll(trash)
}

// Trash moves a folder into a new trash folder, and returns the path of the trash folder. The path is empty if the
// folder does not exist, or if it was removed directly because the trash folder could not be created. If the caller
// does not remove the trash folder, the next start of the daemon does.
func (l Layout) Trash(dir string) (path string, err error) {
	if !Exists(dir) {
		return "", nil
	}
	path, err = os.MkdirTemp(l.Sandboxes(), ".trash-*")
	if err != nil { // for example, because the disk is full
		return "", os.RemoveAll(dir)
	}
	if err := os.Rename(dir, filepath.Join(path, "it")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", errors.Join(err, os.Remove(path))
	}
	return path, nil
}
