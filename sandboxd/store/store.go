// Package store persists the records of sandboxes and executions in one SQLite file. It is the only package
// that contains SQL. It makes no decisions; package manager makes them. Package sandboxd opens and closes the
// store. The store does not contain code, output or files.
//
//   - store.go: [Open] and [Store]: the file, its read connections and its one writer
//   - schema.go: schema and migrations
//   - write.go: writing changes to the disk, several in one transaction
//   - sandbox.go, find.go: [Sandbox], the record of a sandbox; changing it, and finding records
//   - execution.go: [Execution], the record of an execution
//   - rewind.go: [Store.Rewind], the return of a sandbox to a checkpoint
//   - prune.go: deletion of old records
//   - reserve.go: disk space that is reserved for changes that must succeed on a full disk
//
// A method that changes a record returns after the change is on disk (WAL, synchronous=FULL), unless its
// comment says otherwise. Times are wall-clock times.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	_ "modernc.org/sqlite" // registers the driver "sqlite"
)

// Errors that callers distinguish.
var (
	ErrNotFound     = errors.New("no such record")
	ErrRequestTaken = errors.New("another record has this request id")
	ErrNotRunning   = errors.New("the sandbox is not running")
	ErrClosed       = errors.New("the store is closed")
)

// Store is an open database. Its methods are safe for concurrent use.
type Store struct {
	read  *sql.DB // connections for reading (query_only)
	write *sql.DB // the only connection for writing
	log   *slog.Logger

	// Prepared statements that run for each execution.
	accept, acceptEpoch, final *sql.Stmt

	mu      sync.Mutex
	pending []change // requested changes, oldest first; guarded by mu, as are timer, closed and failure
	// timer signals the writer to write changes that no caller waits for. It is nil while the timer is not
	// running.
	timer   *time.Timer
	closed  bool
	failure error // the error of the last transaction, or nil

	reserve reserve

	wake chan struct{} // a value in it means that the writer must look at pending and closed
	done chan struct{} // closed when writeLoop has ended
}

// Open opens the database at path and creates it if it does not exist. It sets the mode of the file to 0600, so
// that only the file's owner can read it. Open returns an error, and leaves the contents of the file unchanged,
// if the database is damaged, is not a Dormouse database, or was written by a newer version of Dormouse. The
// caller must close the store.
func Open(ctx context.Context, path string, log *slog.Logger) (*Store, error) {
	// SQLite creates the write-ahead log and the shared-memory file with the same mode.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	if err := errors.Join(f.Chmod(0o600), f.Close()); err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	s := &Store{log: log, reserve: reserve{path: reservePath(path)}, wake: make(chan struct{}, 1), done: make(chan struct{})}
	err = s.open(ctx, path)
	for IsFull(err) && s.reserve.shrink(0) {
		err = s.open(ctx, path)
	}
	if err != nil {
		return nil, err
	}
	s.reserve.grow()
	go s.writeLoop()
	return s, nil
}

// open opens s.write and s.read and migrates the schema. On a full disk it can fail, because SQLite creates
// files beside the database.
func (s *Store) open(ctx context.Context, path string) (err error) {
	if s.write, err = openPool(path, 1, "_pragma=synchronous(FULL)&_pragma=foreign_keys(1)&_pragma=journal_size_limit(8388608)&_txlock=immediate"); err != nil {
		return err
	}
	if err := prepare(ctx, s.write); err != nil {
		return errors.Join(fmt.Errorf("open the database %s: %w", path, err), s.write.Close())
	}
	if err := s.prepareStatements(ctx); err != nil {
		return errors.Join(fmt.Errorf("open the database %s: %w", path, err), s.write.Close())
	}
	if s.read, err = openPool(path, 4, "_pragma=query_only(1)"); err != nil {
		return errors.Join(err, s.write.Close())
	}
	return nil
}

func openPool(path string, conns int, params string) (*sql.DB, error) {
	name := "file:" + (&url.URL{Path: filepath.ToSlash(path)}).EscapedPath() + "?_pragma=busy_timeout(5000)&" + params
	db, err := sql.Open("sqlite", name)
	if err != nil {
		return nil, fmt.Errorf("open the database %s: %w", path, err)
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

// Close writes the pending changes and closes the file. Changes requested after Close fail with ErrClosed.
func (s *Store) Close() error {
	s.mu.Lock()
	wasClosed := s.closed
	s.closed = true
	s.mu.Unlock()
	if wasClosed {
		return nil
	}
	s.wakeWriter()
	<-s.done
	return errors.Join(s.read.Close(), s.write.Close())
}

// Ping returns an error if records cannot be read, or if the last transaction failed.
func (s *Store) Ping(ctx context.Context) error {
	s.mu.Lock()
	err := s.failure
	s.mu.Unlock()
	if err != nil {
		return err
	}
	var version int
	return s.read.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version)
}

// toDB and fromDB convert between times and their form in the database, which is Unix time in nanoseconds. 0 is
// the zero time.
func toDB(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromDB(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

// nullable returns nil for an empty string. nil is stored as NULL, and a unique column can contain many NULLs.
func nullable(s string) any {
	if s == "" {
		return nil
	}
	return s
}
