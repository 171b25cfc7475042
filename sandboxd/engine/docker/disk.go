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

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/docker/copies"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// checkpointsOf returns the folder, on the engine's machine, of a container's checkpoints. An engine can start a
// container only from a checkpoint in this folder, but it can write a checkpoint to any folder.
func (e *Engine) checkpointsOf(containerID string) string {
	return path.Join(e.system.DockerRootDir, "containers", containerID, "checkpoints")
}

// sealCheckpoint syncs a checkpoint to disk, which engines do not do, and returns the checksum of its files. If this
// process can't read the engine's folder, sealCheckpoint does nothing and returns an empty checksum. In that case,
// damage is not detected, and a power cut in the seconds after a suspend can lose the sandbox.
func (e *Engine) sealCheckpoint(containerID, name string) (sum string, err error) {
	dir := filepath.Join(e.checkpointsOf(containerID), name)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", nil // the folder is on another machine, or not accessible to this user
	}
	summed := make(chan error, 1)
	go func() { // computes the checksum while the files are written to disk
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

// intact returns an error if a checkpoint's files differ from those that were written. It returns nil if the checksum
// is unknown or the files do not exist.
func (e *Engine) intact(containerID string, s checkpointRef) error {
	if s.sum == "" {
		return nil
	}
	sum, err := sumOf(filepath.Join(e.checkpointsOf(containerID), s.name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // startFrom returns an error if the checkpoint does not exist
	case err != nil:
		return fmt.Errorf("read the checkpoint: %w", err)
	case sum != s.sum:
		return sandbox.Errorf(sandbox.Expired, "it can't be resumed, because its saved memory is damaged").WithCause(fmt.Errorf("the checksum of its files is %s, want %s", sum, s.sum))
	}
	return nil
}

// sumOf returns a checksum of the contents, names and sizes of the files in a folder. It detects damage, not forgery:
// a program that can write to the folder is root, and needs no forged checkpoint.
func sumOf(dir string) (string, error) {
	entries, err := os.ReadDir(dir) // sorted by name
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

// removeCopies removes the copies of a container's memory that containerd left when the memory was saved or restored.
// sum is the checksum of the checkpoint, or empty if it is unknown. The caller must hold the sandbox's lock in e.changes,
// so that no restore reads the copies. Only [New] calls removeCopies without the lock, because no other call can use the
// Engine yet.
func (e *Engine) removeCopies(container, sum string) error {
	var errs []error
	for _, place := range e.facts.CopyPlaces {
		errs = append(errs, copies.Remove(place, container, func(dir string) bool {
			got, err := sumOf(dir)
			return sum != "" && err == nil && got == sum
		}))
	}
	return errors.Join(errs...)
}

// touchCheckpoint changes the modification times of a checkpoint's files, so that the engine copies the files again and
// does not use an older copy. It does nothing if this process can't access the engine's folder.
func (e *Engine) touchCheckpoint(containerID, name string) {
	dir := filepath.Join(e.checkpointsOf(containerID), name)
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		_ = os.Chtimes(filepath.Join(dir, entry.Name()), time.Time{}, time.Now())
	}
}

// checkpointBytes returns the size of a checkpoint's files in bytes, or 0 if this process can't read the engine's
// folder.
func (e *Engine) checkpointBytes(containerID, name string) (n int64) {
	_ = filepath.WalkDir(filepath.Join(e.checkpointsOf(containerID), name), func(_ string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			if info, err := entry.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil
	})
	return n
}
