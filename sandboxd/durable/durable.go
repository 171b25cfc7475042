// Package durable writes files so that they survive a power cut.
//
// A file that is created and renamed without fsync can be empty, torn or missing after a power cut, even if the rename
// is on disk. [WriteFile] and [Create] write a temporary file in the same folder, sync it, rename it and sync the
// folder. [Replace] does not sync: it is for files whose readers treat an empty or torn file like a missing one, and for
// files that the caller syncs later with [SyncFile] and [SyncDir].
//
// The daemon, the gVisor engine, the MCP server and the image builder use it.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
)

// WriteFile creates or replaces the file at path. When it returns nil, the content and the name are on disk. After an
// error or a power cut, the file has either its old or its new content.
func WriteFile(path string, data []byte, mode fs.FileMode) error {
	return write(path, data, mode, true, os.Rename)
}

// Create is [WriteFile] for a file that must not exist yet. The error wraps [fs.ErrExist] if it does. On a file system
// without hard links it can replace a file that another process creates at the same moment.
func Create(path string, data []byte, mode fs.FileMode) error {
	return write(path, data, mode, true, func(temporary, path string) error {
		err := os.Link(temporary, path)
		if err == nil {
			return os.Remove(temporary)
		}
		if errors.Is(err, fs.ErrExist) {
			return err
		}
		if _, err := os.Lstat(path); err == nil {
			return &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
		}
		return os.Rename(temporary, path)
	})
}

// Replace creates or replaces the file at path atomically: other processes see either the old or the new content. It
// does not sync: after a power cut the file can be empty, torn or missing.
func Replace(path string, data []byte, mode fs.FileMode) error {
	return write(path, data, mode, false, os.Rename)
}

func write(path string, data []byte, mode fs.FileMode, sync bool, place func(temporary, path string) error) error {
	dir := filepath.Dir(path)
	file, err := os.CreateTemp(dir, ".writing-*")
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	err = errors.Join(err, file.Chmod(mode))
	if sync && err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = place(file.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	if sync {
		return SyncDir(dir)
	}
	return nil
}

// Rename gives a finished file its name: it syncs the file, renames it, and syncs the folder of the new name.
func Rename(from, to string) error {
	if err := SyncFile(from); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(to))
}

// SyncFile writes the content of a file to the disk.
func SyncFile(path string) error {
	flag := os.O_RDONLY
	if runtime.GOOS == "windows" {
		flag = os.O_RDWR // Sync on Windows calls FlushFileBuffers, which needs the right to write
	}
	file, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return nil
}

// SyncDir writes the names in a folder to the disk. It does nothing on systems and file systems that can't do that.
func SyncDir(path string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	err = dir.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	return errors.Join(err, dir.Close())
}
