package folder

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/dormouse-sandbox/dormouse/sandboxd/durable"
)

// MoveOrExchange moves a new folder to its final path, and syncs the parent folder. The parameter making is the folder,
// and to is the path. If there is a folder at that path already, the two folders exchange their names. After a crash or
// a power cut, either the old or the new folder is at the path, if the file system can exchange names. Otherwise this
// holds after [Layout.FinishMoves].
func (l Layout) MoveOrExchange(making, to string) error {
	err := os.Rename(making, to)
	if err != nil && Exists(to) {
		if err = exchange(making, to); errors.Is(err, errors.ErrUnsupported) {
			return exchangeInSteps(making, to)
		}
	}
	if err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(to))
}

// asideSuffix is the suffix of a folder that exchangeInSteps has moved aside.
const asideSuffix = ".old"

// exchangeInSteps exchanges the names of two folders on a file system that can't do so in one step. It first moves the
// old folder aside, where [Layout.FinishMoves] finds it after a crash.
func exchangeInSteps(making, to string) error {
	parent, aside := filepath.Dir(to), to+asideSuffix
	if err := os.RemoveAll(aside); err != nil { // a leftover of an earlier exchange, because the final path has a folder
		return err
	}
	if err := os.Rename(to, aside); err != nil {
		return err
	}
	// Sync the first rename before the second one. Otherwise, after a power cut, the disk could have the new folder under
	// the final name, and no name for the old folder.
	err := durable.SyncDir(parent)
	if err == nil {
		err = os.Rename(making, to)
	}
	if err != nil {
		return errors.Join(err, os.Rename(aside, to))
	}
	if err := durable.SyncDir(parent); err != nil {
		return err
	}
	_ = os.Rename(aside, making) // if this fails, the next start of the daemon removes the old folder
	return nil
}

// FinishMoves completes or undoes the moves that a crash has interrupted: it moves a folder back that was moved aside and
// not replaced, and removes one that was replaced. It must be called before anything else uses the folders.
func (l Layout) FinishMoves() error {
	var errs []error
	for _, pattern := range []string{filepath.Join(l.Sandboxes(), "*", "*"), filepath.Join(l.Snapshots(), "*"), filepath.Join(l.Dir, "guest", "*")} {
		found, _ := filepath.Glob(pattern + asideSuffix)
		for _, aside := range found {
			to := strings.TrimSuffix(aside, asideSuffix)
			if Exists(to) {
				errs = append(errs, l.Discard(aside))
				continue
			}
			errs = append(errs, os.Rename(aside, to), durable.SyncDir(filepath.Dir(to)))
		}
	}
	return errors.Join(errs...)
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
