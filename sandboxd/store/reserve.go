package store

import (
	"errors"
	"os"
	"syscall"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// reserve is a file that only occupies disk space. Terminating a sandbox frees space, but the store must write a
// record first, which fails on a full disk. If such a write fails because the disk is full, the writer makes the
// file smaller and tries again. When there is free space again, the writer extends the file to its full size.
type reserve struct {
	path string
	full bool // the file has its full size; used only by Open and, after it, by the writer
}

const (
	// reserveBytes is the full size of the file. It is several times the space that the termination of a sandbox
	// needs in the write-ahead log: a few pages, and one more page for each unfinished execution.
	reserveBytes = 1 << 20
	reserveStep  = reserveBytes / 8 // how many bytes shrink frees in one call
)

// grow creates the file, or extends it to its full size. On a full disk the file stays smaller, and the writer
// calls grow again after a later change.
func (r *reserve) grow() {
	if r.full {
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
			r.full = true
			return
		}
		_, err = f.Write(make([]byte, min(reserveStep, reserveBytes-size)))
	}
}

// shrink makes the file smaller by reserveStep bytes, but not smaller than minimum bytes. It reports whether it did.
func (r *reserve) shrink(minimum int64) bool {
	info, err := os.Stat(r.path)
	if err != nil || info.Size() <= minimum {
		return false
	}
	r.full = false
	return os.Truncate(r.path, max(info.Size()-reserveStep, minimum)) == nil
}

func reservePath(database string) string { return database + ".reserve" }

// FreeReserve frees part of the reserve of the database at path, so that a write to a full disk can be tried
// again. It reports whether it freed any space. The database must not be open.
func FreeReserve(path string) bool {
	r := reserve{path: reservePath(path)}
	return r.shrink(0)
}

// IsFull reports whether err was caused by a full disk.
func IsFull(err error) bool {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return true
	}
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && (e.Code()&0xff == sqlite3.SQLITE_FULL || e.Code() == sqlite3.SQLITE_IOERR_WRITE || e.Code() == sqlite3.SQLITE_IOERR_SHMSIZE)
}
