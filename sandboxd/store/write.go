package store

import (
	"database/sql"
	"errors"
	"slices"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// op is one change. It may run twice, so it changes nothing but the database.
type op struct {
	do    func(*sql.Tx) error
	done  chan error // nil when nobody waits
	spare int64      // on a full disk the op does not use this part of the reserve, in bytes
	quick bool       // the change must outlast the daemon, but not a failure of the machine
}

// patience is how long a change that nobody waits for may stay in memory. Within it
// the next change that somebody waits for takes it along, in the same transaction, so that
// an execution costs one flush of the disk: its acceptance.
const patience = 100 * time.Millisecond

// now makes a change and returns when it is on disk. It takes no context: a change
// is short, and is not abandoned half-way.
func (s *Store) now(do func(*sql.Tx) error) error { return s.wait(op{do: do, spare: reserveBytes}) }

// evenFull is now for a change that makes room, and so must be possible on a full disk.
func (s *Store) evenFull(do func(*sql.Tx) error) error { return s.wait(op{do: do}) }

// quickly makes a change, even on a full disk, and returns when the change outlasts the daemon. It does not flush the
// disk: until another change does, a failure of the machine can undo it.
func (s *Store) quickly(do func(*sql.Tx) error) error {
	return s.wait(op{do: do, spare: reserveBytes / 2, quick: true})
}

func (s *Store) wait(o op) error {
	o.done = make(chan error, 1)
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	s.pending = append(s.pending, o)
	s.mu.Unlock()
	s.signal()
	return <-o.done
}

// fullRetry is the time between two attempts to write a deferred change to a full disk.
const fullRetry = time.Second

// soon makes a change a moment later, after all changes that were requested before it. On a full disk it tries again
// until there is free space. Any other failure is logged. If a crash loses the change, reconciling makes it again.
func (s *Store) soon(do func(*sql.Tx) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.pending = append(s.pending, op{do: do, spare: reserveBytes})
	if s.timer == nil {
		s.timer = time.AfterFunc(patience, s.signal)
	}
}

// Flush returns when all that was asked for before it is on disk.
func (s *Store) Flush() error {
	return s.now(func(*sql.Tx) error { return nil })
}

func (s *Store) signal() {
	select {
	case s.wake <- struct{}{}:
	default: // the writer will see it anyway
	}
}

// writeLoop is the one writer. It ends when the store is closed and all is written.
func (s *Store) writeLoop() {
	defer close(s.done)
	for range s.wake {
		s.mu.Lock()
		ops, closed := s.pending, s.closed
		s.pending = nil
		if s.timer != nil {
			s.timer.Stop()
			s.timer = nil
		}
		s.mu.Unlock()
		retry := s.commit(ops)
		if closed {
			if len(retry) > 0 {
				s.log.Error("the disk is full; records were not written", "records", len(retry))
			}
			return
		}
		s.again(retry)
	}
}

// commit runs ops in one transaction; if one of them fails, each in its own. It returns the deferred changes that did not fit
// on a full disk, in their order.
func (s *Store) commit(ops []op) (retry []op) {
	if len(ops) == 0 {
		return nil
	}
	err := s.transact(ops)
	if err != nil && len(ops) > 1 {
		for _, o := range ops {
			retry = append(retry, s.commit([]op{o})...)
		}
		return retry
	}
	used := false
	for IsFull(err) && s.reserve.giveUp(ops[0].spare) {
		used = true
		err = s.transact(ops)
	}
	if err == nil && !used {
		s.reserve.keep()
	}
	s.note(err)
	for _, o := range ops {
		switch {
		case o.done != nil:
			o.done <- err
		case IsFull(err):
			retry = append(retry, o)
		case err != nil:
			s.log.Error("a record was not written", "error", err)
		}
	}
	return retry
}

// again queues changes for another attempt, before the changes that were requested since.
func (s *Store) again(ops []op) {
	if len(ops) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = append(ops, s.pending...)
	if s.timer == nil {
		s.timer = time.AfterFunc(fullRetry, s.signal)
	}
}

func (s *Store) transact(ops []op) error {
	synchronous := "PRAGMA synchronous = FULL"
	if !slices.ContainsFunc(ops, func(o op) bool { return !o.quick }) {
		synchronous = "PRAGMA synchronous = NORMAL"
	}
	if _, err := s.write.Exec(synchronous); err != nil {
		return err
	}
	tx, err := s.write.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing after a commit
	for _, o := range ops {
		if err := o.do(tx); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// note keeps a failure of the database itself (a full disk, say) for Ping.
func (s *Store) note(err error) {
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrEnded) || errors.Is(err, ErrRequestTaken) {
		err = nil
	}
	s.mu.Lock()
	s.failure = err
	s.mu.Unlock()
}

// oneRow turns a change of no row into ErrNotFound.
func oneRow(res sql.Result, err error) error {
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return errors.Join(err, ErrNotFound)
	}
	return nil
}

// taken reports whether err is a violation of a unique column.
func taken(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE
}
