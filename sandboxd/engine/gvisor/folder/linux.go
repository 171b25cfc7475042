//go:build linux

package folder

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// exchange exchanges the names of two folders in one step. The error is [errors.ErrUnsupported] if the file system can't
// do that.
func exchange(a, b string) error {
	err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
	if err == unix.EINVAL || err == unix.ENOSYS {
		return errors.ErrUnsupported
	}
	return err
}

// SyncAll writes all data of the file system that contains a folder to disk.
func SyncAll(dir string) error {
	file, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer file.Close()
	return unix.Syncfs(int(file.Fd()))
}
