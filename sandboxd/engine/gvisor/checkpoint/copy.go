package checkpoint

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
)

// Copy copies a checkpoint to a new folder, for another sandbox with the same memory. The files are hard links, so they
// must not be written to afterwards. The parameters was and is are manifests from [New]: was for the sandbox that the
// checkpoint belongs to, and is for the other sandbox. The error is of kind expired if the checkpoint is damaged, or was
// not made with the configuration in was.
func Copy(from, to string, was, is Manifest) error {
	if err := linkTree(from, to); err != nil {
		return err
	}
	m, err := Read(to)
	if err != nil {
		return err
	}
	if m.Config != was.Config {
		return folder.Lost("its saved memory belongs to another sandbox")
	}
	m.Config = is.Config
	return writeManifest(to, m)
}

// linkTree creates a folder (to) with hard links to the files of another folder (from). The files must not be written
// to afterwards.
func linkTree(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		errs = append(errs, os.Link(filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name())))
	}
	return errors.Join(errs...)
}
