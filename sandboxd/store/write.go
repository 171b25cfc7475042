package store

import (
	"database/sql"
	"errors"
	"slices"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// change is a change of the database.
type change struct {
	// run makes the change. It can run several times, because its transaction can be retried. So it may change only the
	// database, and variables that each run sets again.
	run    func(*sql.Tx) error
	result chan error // receives the error of the change, or nil; the channel is nil if no caller waits
	// reserveLeft is how many bytes of the reserve the change must leave on a full disk.
	reserveLeft int64
	// unsynced means that the disk need not be flushed: the change survives the end of the daemon, but not always a failure
	// of the machine.
	unsynced bool
}

// A change is made by one of these methods:
//
//	method            returns                 flushes the disk   on a full disk it may use
//	apply             after the change        yes                nothing of the reserve
//	applyWithReserve  after the change        yes                the whole reserve
//	applyUnsynced     after the change        no                 half of the reserve
//	applyLater        at once                 yes, later         nothing of the reserve, but it is retried
//
// [Store.SetState] is the only other change: it is flushed, and may use half of the reserve.
//
// No method has a context parameter, because a change takes little time and cannot be cancelled half-way.

// maxDelay is how long a deferred change, which no caller waits for, may stay in memory. A change that a caller
// waits for is committed immediately, and all deferred changes become part of its transaction. So a client that
// requests an execution waits for only one flush of the disk: the flush that records the accepted execution.
const maxDelay = 100 * time.Millisecond

// apply makes a change and returns when it is on disk.
func (s *Store) apply(run func(*sql.Tx) error) error {
	return s.submit(change{run: run, reserveLeft: reserveBytes})
}

// applyWithReserve is like apply, but may use the whole reserve on a full disk. It is for changes that must succeed
// on a full disk, such as the termination of a sandbox, which frees space.
func (s *Store) applyWithReserve(run func(*sql.Tx) error) error { return s.submit(change{run: run}) }

// applyUnsynced is like apply, but it may use half of the reserve on a full disk, and it does not flush the disk.
// When it returns, the change survives the end of the daemon. A failure of the machine can undo the change until a
// later change flushes the disk.
func (s *Store) applyUnsynced(run func(*sql.Tx) error) error {
	return s.submit(change{run: run, reserveLeft: reserveBytes / 2, unsynced: true})
}

// submit makes a change and returns its result.
func (s *Store) submit(c change) error {
	c.result = make(chan error, 1)
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	s.pending = append(s.pending, c)
	s.mu.Unlock()
	s.wakeWriter()
	return <-c.result
}

// retryInterval is the time between two attempts to write a deferred change to a full disk.
const retryInterval = time.Second

// applyLater makes a change with a short delay, after all changes that were requested before it. On a full disk it
// retries until there is free space. Any other failure is logged. A crash can lose the change, so applyLater is only
// for changes whose loss does no harm. For example, if the removal of a container was not recorded, the
// manager's reconciliation records it later. applyLater does nothing if the store is closed.
func (s *Store) applyLater(run func(*sql.Tx) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.pending = append(s.pending, change{run: run, reserveLeft: reserveBytes})
	if s.timer == nil {
		s.timer = time.AfterFunc(maxDelay, s.wakeWriter)
	}
}

// Flush returns when all changes that were requested before the call are on disk, or have failed. It can return nil
// although a deferred change has failed. A deferred change that does not fit on a full disk is tried again after
// Flush has returned.
func (s *Store) Flush() error {
	return s.apply(func(*sql.Tx) error { return nil })
}

// wakeWriter makes the writer look at the pending changes.
func (s *Store) wakeWriter() {
	select {
	case s.wake <- struct{}{}:
	default: // the writer has not handled an earlier signal yet; when it does, it also handles newer changes
	}
}

// writeLoop is the only writer. When the store is closed, it tries once more to write all pending changes, and
// ends.
func (s *Store) writeLoop() {
	defer close(s.done)
	for range s.wake {
		s.mu.Lock()
		changes, closed := s.pending, s.closed
		s.pending = nil
		if s.timer != nil {
			s.timer.Stop()
			s.timer = nil
		}
		s.mu.Unlock()
		retry := s.commit(changes)
		if closed {
			if len(retry) > 0 {
				s.log.Error("the disk is full; records were not written", "records", len(retry))
			}
			return
		}
		s.requeue(retry)
	}
}

// commit makes changes in one transaction or, if one of them fails, each in its own transaction. It sends the results
// to the waiting callers. It returns the deferred changes that did not fit on a full disk, in their order.
func (s *Store) commit(changes []change) (retry []change) {
	if len(changes) == 0 {
		return nil
	}
	err := s.transact(changes)
	if err != nil && len(changes) > 1 {
		for _, c := range changes {
			retry = append(retry, s.commit([]change{c})...)
		}
		return retry
	}
	usedReserve := false
	for IsFull(err) && s.reserve.shrink(changes[0].reserveLeft) {
		usedReserve = true
		err = s.transact(changes)
	}
	if err == nil && !usedReserve {
		s.reserve.grow()
	}
	s.recordResult(err)
	for _, c := range changes {
		switch {
		case c.result != nil:
			c.result <- err
		case IsFull(err):
			retry = append(retry, c)
		case err != nil:
			s.log.Error("a record was not written", "error", err)
		}
	}
	return retry
}

// requeue queues changes for another attempt, before the changes that were requested since.
func (s *Store) requeue(changes []change) {
	if len(changes) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = append(changes, s.pending...)
	if s.timer == nil {
		s.timer = time.AfterFunc(retryInterval, s.wakeWriter)
	}
}

// transact makes changes in one transaction. It flushes the disk unless all of them are unsynced.
func (s *Store) transact(changes []change) error {
	synchronous := "PRAGMA synchronous = FULL"
	if !slices.ContainsFunc(changes, func(c change) bool { return !c.unsynced }) {
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
	for _, c := range changes {
		if err := c.run(tx); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// recordResult stores the result of a transaction for Ping. An error that the caller of the change caused, such as
// ErrNotFound, counts as success.
func (s *Store) recordResult(err error) {
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrNotRunning) || errors.Is(err, ErrRequestTaken) {
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

// isDuplicate reports whether err means that another row already has the value of a unique column.
func isDuplicate(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE
}
