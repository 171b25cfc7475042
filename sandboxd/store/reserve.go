package store

import (
	"errors"
	"os"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// reserve is a file that keeps some of the disk. A full disk must not stand in the way of the change that
// makes room, which is the end of a sandbox: the reserve is given up for it, and made again when there is room.
type reserve struct {
	path string
	kept bool // the writer's, as all of it
}

// reserveBytes is more than the end of a sandbox takes in the write-ahead log: some pages, and one for each execution
// that it had not finished.
const reserveBytes = 1 << 20

// keep makes the file, if it is not there. Where there is no room for it there is none for what it is for, and the
// next change tries again.
func (r *reserve) keep() {
	if r.kept {
		return
	}
	if info, err := os.Stat(r.path); err == nil && info.Size() == reserveBytes {
		r.kept = true
		return
	}
	if os.WriteFile(r.path, make([]byte, reserveBytes), 0o600) != nil {
		_ = os.Remove(r.path)
		return
	}
	r.kept = true
}

// giveUp reports whether there was one.
func (r *reserve) giveUp() bool {
	r.kept = false
	return os.Remove(r.path) == nil
}

// full reports whether err is that of a full disk.
func full(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && (e.Code()&0xff == sqlite3.SQLITE_FULL || e.Code() == sqlite3.SQLITE_IOERR_WRITE)
}
