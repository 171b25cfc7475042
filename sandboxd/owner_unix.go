//go:build unix

package sandboxd

import (
	"io/fs"
	"syscall"
)

// owner returns who owns a file, where the system says so.
func owner(info fs.FileInfo) (uid int, ok bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(st.Uid), true
}
