// Package store keeps what the daemon promised: records of sandboxes and of
// executions, in one SQLite file. It is the only place with SQL, and decides nothing.
//
//   - [Open], [Store]: the file, its readers and its one writer (store.go)
//   - schema and migrations (schema.go)
//   - how changes reach the disk, several in one transaction (write.go)
//   - [Sandbox]: a sandbox's record (sandbox.go, list.go)
//   - [Execution]: an execution's record (execution.go)
//   - what is forgotten, and when (prune.go)
//   - how a full disk lets room be made (reserve.go)
//
// A method that changes something returns when the change is on disk (WAL,
// synchronous=FULL), except those whose comment says otherwise. Times are wall times.
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

	_ "modernc.org/sqlite" // the driver "sqlite"
)

// Errors that callers tell apart.
var (
	ErrNotFound     = errors.New("no such record")
	ErrRequestTaken = errors.New("another record has this request id")
	ErrEnded        = errors.New("the sandbox is not running")
	ErrClosed       = errors.New("the store is closed")
)

// Store is an open database. Its methods may be called concurrently.
type Store struct {
	read  *sql.DB // query_only
	write *sql.DB // one connection
	log   *slog.Logger

	// What each execution runs, prepared.
	accept, acceptEpoch, final *sql.Stmt

	mu      sync.Mutex
	pending []op        // in the order in which they were asked for
	timer   *time.Timer // runs while only patient ops are pending
	closed  bool
	failure error // of the last transaction

	reserve reserve

	wake chan struct{}
	done chan struct{} // closed when the writer has ended
}

// Open opens the database at path, or makes it, readable by its owner only.
// A database that is damaged, is not ours or was written by a newer Dormouse is an error, and
// is left as it is.
func Open(ctx context.Context, path string, log *slog.Logger) (*Store, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) // SQLite gives its other files the same mode
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	if err := errors.Join(f.Chmod(0o600), f.Close()); err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	s := &Store{log: log, reserve: reserve{path: reservePath(path)}, wake: make(chan struct{}, 1), done: make(chan struct{})}
	err = s.open(ctx, path)
	for IsFull(err) && s.reserve.giveUp(0) {
		err = s.open(ctx, path)
	}
	if err != nil {
		return nil, err
	}
	s.reserve.keep()
	go s.writeLoop()
	return s, nil
}

// open opens the connections. SQLite needs some disk space for that, because it creates files beside the database.
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

// Close writes what is pending and closes the file.
func (s *Store) Close() error {
	s.mu.Lock()
	already := s.closed
	s.closed = true
	s.mu.Unlock()
	if already {
		return nil
	}
	s.signal()
	<-s.done
	return errors.Join(s.read.Close(), s.write.Close())
}

// Ping reports whether records can be read, and whether the last change was written.
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

// toDB and fromDB keep times as nanoseconds of Unix time; 0 is no time.
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

// nullable stores an empty string as NULL, which a unique column may have many of.
func nullable(s string) any {
	if s == "" {
		return nil
	}
	return s
}
