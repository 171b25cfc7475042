package store

import (
	"errors"
	"os"
	"syscall"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// reserve is a file that keeps some of the disk. A full disk must not stand in the way of the change that
// makes room, which is the end of a sandbox: part of the reserve is given up for it, and kept again when there is room.
type reserve struct {
	path string
	kept bool // all of it; the writer's, as the file is
}

// reserveBytes is several times what the end of a sandbox takes in the write-ahead log: some pages, and one for each
// execution that it had not finished.
const (
	reserveBytes = 1 << 20
	reserveStep  = reserveBytes / 8 // given up at once
)

// keep makes the file, or makes it whole. On a full disk it keeps what there is, and the next change tries again.
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

// giveUp gives a step of the reserve back to the disk, and reports whether it did. It leaves spare bytes.
func (r *reserve) giveUp(spare int64) bool {
	info, err := os.Stat(r.path)
	if err != nil || info.Size() <= spare {
		return false
	}
	r.kept = false
	return os.Truncate(r.path, max(info.Size()-reserveStep, spare)) == nil
}

func reservePath(database string) string { return database + ".reserve" }

// FreeReserve gives part of the reserve of the database at path back to a full disk, and reports whether it did. It must not be
// called while the database is open.
func FreeReserve(path string) bool {
	r := reserve{path: reservePath(path)}
	return r.giveUp(0)
}

// IsFull reports whether err is that of a full disk.
func IsFull(err error) bool {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return true
	}
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && (e.Code()&0xff == sqlite3.SQLITE_FULL || e.Code() == sqlite3.SQLITE_IOERR_WRITE || e.Code() == sqlite3.SQLITE_IOERR_SHMSIZE)
}
