package store

import (
	"database/sql"
	"errors"
	"slices"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// op is one change. do can run several times, because its transaction can be retried. So it may change only the
// database, and variables that each run sets again.
type op struct {
	do    func(*sql.Tx) error
	done  chan error // receives the error of the change, or nil; the channel is nil if no caller waits
	spare int64      // bytes of the reserve that this op must not use on a full disk
	// quick means that the disk need not be flushed: the change survives the end of the daemon, but not always a
	// failure of the machine.
	quick bool
}

// patience is how long a deferred change, which no caller waits for, may stay in memory. A change that a caller
// waits for is committed immediately, and all deferred changes become part of its transaction. So the caller of
// an execution waits for only one flush of the disk: the one that records its acceptance.
const patience = 100 * time.Millisecond

// now makes a change and returns when it is on disk. On a full disk it does not use the reserve. It has no
// context parameter, because a change takes little time and cannot be cancelled half-way.
func (s *Store) now(do func(*sql.Tx) error) error { return s.wait(op{do: do, spare: reserveBytes}) }

// evenFull is like now, but may use the whole reserve on a full disk. It is for changes that free space.
func (s *Store) evenFull(do func(*sql.Tx) error) error { return s.wait(op{do: do}) }

// quickly is like now, but it may use half of the reserve on a full disk, and it does not flush the disk. When
// it returns, the change survives the end of the daemon. A failure of the machine can undo the change until a
// later change flushes the disk.
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

// soon makes a change with a short delay, after all changes that were requested before it. On a full disk it
// retries until there is free space. Any other failure is logged. A crash can lose the change, so soon is only
// for changes whose loss does no harm. For example, if the removal of a container was not recorded, the
// manager's reconciliation records it later. soon does nothing if the store is closed.
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

// Flush returns when all changes that were requested before the call are on disk.
func (s *Store) Flush() error {
	return s.now(func(*sql.Tx) error { return nil })
}

func (s *Store) signal() {
	select {
	case s.wake <- struct{}{}:
	default: // the writer has not handled an earlier signal yet, and will see this change then
	}
}

// writeLoop is the only writer. When the store is closed, it tries once more to write all pending changes, and
// ends.
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

// commit runs ops in one transaction or, if one of them fails, each in its own transaction. It sends the results
// to the waiting callers. It returns the deferred changes that did not fit on a full disk, in the order of ops.
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

// note stores the result of a transaction for Ping. An error that its caller caused, such as ErrNotFound, counts
// as success.
func (s *Store) note(err error) {
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrEnded) || errors.Is(err, ErrRequestTaken) {
		err = nil
	}
	s.mu.Lock()
	s.failure = err
	s.mu.Unlock()
}

// oneRow returns ErrNotFound if a change affected no row.
func oneRow(res sql.Result, err error) error {
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return errors.Join(err, ErrNotFound)
	}
	return nil
}

// taken reports whether err means that another row already has the value of a unique column.
func taken(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE
}
