//go:build unix

package home

import (
	"io/fs"
	"syscall"
)

// owner returns the uid of a file's owner. It reports false if info does not contain it.
func owner(info fs.FileInfo) (uid int, ok bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(st.Uid), true
}
