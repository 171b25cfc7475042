package docker

import (
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// checkpointsOf is the folder, on the engine's machine, of a container's checkpoints. An engine can't
// start a container from another folder, but it can write into one that is named.
func (e *Engine) checkpointsOf(box string) string {
	return path.Join(e.system.DockerRootDir, "containers", box, "checkpoints")
}

// sealCheckpoint sees that a checkpoint is on disk, which engines do not do, and returns its sum, where the
// engine's folder is this machine's and can be read. Elsewhere the sum is empty, damage is not found,
// and a power cut in the seconds after a suspend can lose the sandbox.
func (e *Engine) sealCheckpoint(box, name string) (sum string, err error) {
	dir := filepath.Join(e.checkpointsOf(box), name)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", nil // another machine's, or another user's
	}
	summed := make(chan error, 1)
	go func() { // while the disk writes
		var err error
		sum, err = sumOf(dir)
		summed <- err
	}()
	var errs []error
	for _, entry := range entries {
		errs = append(errs, syncPath(filepath.Join(dir, entry.Name())))
	}
	errs = append(errs, syncPath(dir), syncPath(filepath.Dir(dir)), <-summed)
	return sum, errors.Join(errs...)
}

// whole reports whether a checkpoint's files are as they were written, as far as can be told.
func (e *Engine) whole(box string, s saved) error {
	if s.sum == "" {
		return nil
	}
	sum, err := sumOf(filepath.Join(e.checkpointsOf(box), s.name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // the engine says that it has lost it
	case err != nil:
		return fmt.Errorf("read the checkpoint: %w", err)
	case sum != s.sum:
		return sandbox.Errorf(sandbox.Expired, "it can't be resumed, because its saved memory is damaged").WithCause(fmt.Errorf("the sum of its files is %s and was %s", sum, s.sum))
	}
	return nil
}

// sumOf sums up the files in a folder, their names and sizes. It finds damage: who may write there is root and needs no
// forged checkpoint.
func sumOf(dir string) (string, error) {
	entries, err := os.ReadDir(dir) // by name
	if err != nil {
		return "", err
	}
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	for _, entry := range entries {
		if !entry.Type().IsRegular() {
			continue
		}
		file, err := os.Open(filepath.Join(dir, entry.Name()))
		if err != nil {
			return "", err
		}
		size, err := io.Copy(sum, file)
		if err := errors.Join(err, file.Close()); err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%q %d", entry.Name(), size)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
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
