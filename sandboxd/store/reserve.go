package store

import (
	"errors"
	"os"
	"syscall"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// reserve is a file that occupies disk space, so that a sandbox can be terminated even on a full disk: that
// frees space, but must be recorded first. Such a change gives up part of the reserve. When there is free space
// again, the reserve grows to its full size.
type reserve struct {
	path string
	kept bool // the file has its full size; only the writer uses this field and the file
}

// reserveBytes is several times the size that the end of a sandbox has in the write-ahead log: some pages, and
// one for each unfinished execution.
const (
	reserveBytes = 1 << 20
	reserveStep  = reserveBytes / 8 // how much giveUp frees in one call
)

// keep creates the file, or extends it to its full size. On a full disk the file stays smaller, and the next
// change tries again.
func (r *reserve) keep() {
	if r.kept {
		return
	}
	f, err := os.OpenFile(r.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	info, err := f.Stat()
	for size := int64(0); err == nil; size += reserveStep {
		if size = max(size, info.Size()); size >= reserveBytes {
			r.kept = true
			return
		}
		_, err = f.Write(make([]byte, min(reserveStep, reserveBytes-size)))
	}
}

// giveUp frees reserveStep bytes of the reserve and reports whether it did. It does not make the file smaller
// than spare bytes.
func (r *reserve) giveUp(spare int64) bool {
	info, err := os.Stat(r.path)
	if err != nil || info.Size() <= spare {
		return false
	}
	r.kept = false
	return os.Truncate(r.path, max(info.Size()-reserveStep, spare)) == nil
}

func reservePath(database string) string { return database + ".reserve" }

// FreeReserve frees part of the reserve of the database at path, for a write to a full disk, and reports
// whether it did. The caller must make sure that the database is not open.
func FreeReserve(path string) bool {
	r := reserve{path: reservePath(path)}
	return r.giveUp(0)
}

// IsFull reports whether err was caused by a full disk.
func IsFull(err error) bool {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return true
	}
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && (e.Code()&0xff == sqlite3.SQLITE_FULL || e.Code() == sqlite3.SQLITE_IOERR_WRITE || e.Code() == sqlite3.SQLITE_IOERR_SHMSIZE)
}
