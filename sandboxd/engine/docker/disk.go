package docker

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"
)

// checkpointsOf is the folder, on the engine's machine, of a container's checkpoints. An engine can't
// start a container from another folder, but it can write into one that is named.
func (e *Engine) checkpointsOf(box string) string {
	return path.Join(e.system.DockerRootDir, "containers", box, "checkpoints")
}

// syncCheckpoint sees that a checkpoint is on disk, which engines do not do, where the
// engine's folder is this machine's and can be read. Elsewhere a power cut in the seconds
// after a suspend can lose the sandbox.
func (e *Engine) syncCheckpoint(box, name string) error {
	dir := filepath.Join(e.checkpointsOf(box), name)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // another machine's, or another user's
	}
	var errs []error
	for _, entry := range entries {
		errs = append(errs, syncPath(filepath.Join(dir, entry.Name())))
	}
	return errors.Join(append(errs, syncPath(dir), syncPath(filepath.Dir(dir)))...)
}

func syncPath(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

// touchCheckpoint makes an engine's next copy of a checkpoint differ from the last, where its folder is this machine's.
func (e *Engine) touchCheckpoint(box, name string) {
	dir := filepath.Join(e.checkpointsOf(box), name)
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		_ = os.Chtimes(filepath.Join(dir, entry.Name()), time.Time{}, time.Now())
	}
}

// checkpointBytes is what a checkpoint takes on disk, if that can be seen from here.
func (e *Engine) checkpointBytes(box, name string) (n int64) {
	_ = filepath.WalkDir(filepath.Join(e.checkpointsOf(box), name), func(_ string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			if info, err := entry.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil
	})
	return n
}
