//go:build !unix

package sandboxd

import "io/fs"

// owner reports false, because the system has no numeric owners of files. It protects the folders below the user's own
// folders from other users itself.
func owner(fs.FileInfo) (uid int, ok bool) { return 0, false }
