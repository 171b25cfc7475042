//go:build linux

package workspace

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
)

// folder is the descriptor of an open folder in the workspace. openParent opens it one path element at a time and
// rejects symbolic links. os.Root is not used, because under gVisor it follows links in the middle of a path to any
// place. This code gives the same guarantee as os.Root on Linux, for every runtime.
type folder int

// oPath (O_PATH) opens a folder only to look up names in it, which does not require the right to read it.
const oPath = 0x200000

// openParent opens the folder that contains name. If make is true, it creates missing folders. The caller must close
// the returned folder.
func (w *Workspace) openParent(name string, make bool) (folder, error) {
	const flags = oPath | syscall.O_DIRECTORY | syscall.O_NOFOLLOW | syscall.O_CLOEXEC
	fd, err := syscall.Open(w.dir, flags, 0)
	if err != nil {
		return -1, err
	}
	dir := path.Dir(name)
	if dir == "." {
		return folder(fd), nil
	}
	for part := range strings.SplitSeq(dir, "/") {
		next, err := syscall.Openat(fd, part, flags, 0)
		if make && errors.Is(err, fs.ErrNotExist) {
			if err = syscall.Mkdirat(fd, part, 0o755); err == nil || errors.Is(err, fs.ErrExist) {
				next, err = syscall.Openat(fd, part, flags, 0)
			}
		}
		syscall.Close(fd)
		if err != nil {
			return -1, err
		}
		fd = next
	}
	return folder(fd), nil
}

// open opens a file in the folder. It does not follow links.
func (f folder) open(name string, flags int, mode uint32) (*os.File, error) {
	fd, err := syscall.Openat(int(f), name, flags|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, mode)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// lstat returns information about a file in the folder, or about the link in its place.
func (f folder) lstat(name string) (fs.FileInfo, error) {
	fd, err := syscall.Openat(int(f), name, oPath|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), name)
	defer file.Close()
	return file.Stat()
}

func (f folder) rename(from, to string) error {
	return syscall.Renameat(int(f), from, int(f), to)
}

func (f folder) remove(name string) error { return syscall.Unlinkat(int(f), name) }

func (f folder) close() { syscall.Close(int(f)) }
