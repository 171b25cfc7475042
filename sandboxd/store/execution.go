package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Execution is the record of an execution. It does not contain code or output.
type Execution struct {
	sandbox.Execution
	Owner       sandbox.Owner // the owner of the execution's sandbox; set by the store
	Requester   sandbox.Owner // the client that requested it; request ids are unique for each requester
	RequestID   string
	RequestHash []byte
}

// AddExecution stores an accepted execution. A client that requests an execution waits for this flush of the disk
// and for no other. The error is [ErrRequestTaken] if another execution of the same requester has the request id,
// and [ErrNotRunning] if the sandbox is not running.
func (s *Store) AddExecution(e Execution) error {
	record, err := encode(e.Execution)
	if err != nil {
		return err
	}
	return s.apply(func(tx *sql.Tx) error {
		res, err := tx.Stmt(s.accept).Exec(e.ID, e.Requester, nullable(e.RequestID), e.RequestHash, record, e.SandboxID, sandbox.Running)
		if isDuplicate(err) && strings.Contains(err.Error(), "request_id") {
			return ErrRequestTaken
		}
		if err != nil {
			return fmt.Errorf("store execution %s: %w", e.ID, err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return ErrNotRunning
		}
		_, err = tx.Stmt(s.acceptEpoch).Exec(e.SandboxID)
		return err
	})
}

// FinishExecution stores how an execution ended, even on a full disk. When FinishExecution returns, the record
// survives the end of the daemon. Within maxDelay the disk is flushed, and then the record also survives a
// failure of the machine. If the record was already final, FinishExecution returns false and changes nothing.
func (s *Store) FinishExecution(e sandbox.Execution) (stored bool, err error) {
	err = s.applyUnsynced(func(tx *sql.Tx) error {
		stored, err = s.finish(tx, e)
		return err
	})
	if err != nil {
		return false, err
	}
	if stored {
		// This deferred change makes the store flush the disk. A transaction flushes only if it writes, so this
		// one writes a value that the row already has.
		s.applyLater(func(tx *sql.Tx) error {
			_, err := tx.Exec("UPDATE executions SET final = final WHERE id = ?", e.ID)
			return err
		})
	}
	return stored, nil
}

// AbandonExecution stores that an accepted execution never ran. It releases the execution's request id, so that
// a retry creates a new execution.
func (s *Store) AbandonExecution(e sandbox.Execution) error {
	return s.applyWithReserve(func(tx *sql.Tx) error {
		if _, err := s.finish(tx, e); err != nil {
			return err
		}
		_, err := tx.Exec("UPDATE executions SET request_id = NULL WHERE id = ?", e.ID)
		return err
	})
}

// RemoveExecution deletes the record of an execution that the guest refused or did not receive. It does nothing
// if the record is final.
func (s *Store) RemoveExecution(id sandbox.ExecutionID) error {
	return s.applyWithReserve(func(tx *sql.Tx) error {
		_, err := tx.Exec("DELETE FROM executions WHERE id = ? AND final = 0", id)
		return err
	})
}

// Execution returns an execution's record, or [ErrNotFound].
func (s *Store) Execution(ctx context.Context, id sandbox.ExecutionID) (Execution, error) {
	return scanExecution(s.read.QueryRowContext(ctx, "SELECT "+executionColumns+" FROM executions WHERE id = ?", id))
}

// ExecutionFor returns an execution's record if viewer may see its sandbox, and [ErrNotFound] otherwise. Like
// [Store.SandboxFor], it takes the same time for an execution of another owner as for one that does not exist.
func (s *Store) ExecutionFor(ctx context.Context, viewer sandbox.Owner, id sandbox.ExecutionID) (Execution, error) {
	return scanExecution(s.read.QueryRowContext(ctx, "SELECT "+executionColumns+" FROM executions WHERE id = ? AND (owner = ? OR ?)", id, viewer, viewer == sandbox.Operator))
}

// ExecutionByRequest returns the execution of a requester with this request id, or [ErrNotFound].
func (s *Store) ExecutionByRequest(ctx context.Context, requester sandbox.Owner, requestID string) (Execution, error) {
	return scanExecution(s.read.QueryRowContext(ctx, "SELECT "+executionColumns+" FROM executions WHERE requester = ? AND request_id = ?", requester, requestID))
}

// Unfinished returns the executions whose end is not stored, oldest first.
func (s *Store) Unfinished(ctx context.Context) ([]Execution, error) {
	tx, err := s.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer tx.Rollback()
	return queryExecutions(tx, "WHERE final = 0 ORDER BY seq")
}

// prepareStatements prepares the statements that run for each execution.
func (s *Store) prepareStatements(ctx context.Context) (err error) {
	s.accept, err = s.write.PrepareContext(ctx, `INSERT INTO executions (id, sandbox, owner, final, requester, request_id, request_hash, record)
		SELECT ?, id, owner, 0, ?, ?, ?, ? FROM sandboxes WHERE id = ? AND state = ?`)
	if err == nil {
		// epoch_bound is an upper bound of every kernel_epoch that the sandbox's guest has had. Its initial
		// value is 2, because a guest can start one kernel when it starts itself, and another kernel when it is
		// prepared for a snapshot. After that it starts at most one kernel for each execution.
		s.acceptEpoch, err = s.write.PrepareContext(ctx, "UPDATE sandboxes SET epoch_bound = epoch_bound + 1 WHERE id = ?")
	}
	if err == nil {
		s.final, err = s.write.PrepareContext(ctx, "UPDATE executions SET final = 1, record = ? WHERE id = ? AND final = 0")
	}
	return err
}

const executionColumns = "owner, requester, coalesce(request_id, ''), request_hash, record"

func scanExecution(row interface{ Scan(...any) error }) (Execution, error) {
	var e Execution
	var record []byte
	err := row.Scan(&e.Owner, &e.Requester, &e.RequestID, &e.RequestHash, &record)
	if err == sql.ErrNoRows {
		return e, ErrNotFound
	}
	if err == nil {
		err = json.Unmarshal(record, &e.Execution)
	}
	if err != nil {
		return e, fmt.Errorf("read an execution's record: %w", err)
	}
	return e, nil
}

func queryExecutions(tx *sql.Tx, where string, args ...any) ([]Execution, error) {
	rows, err := tx.Query("SELECT "+executionColumns+" FROM executions "+where, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []Execution
	for rows.Next() {
		e, err := scanExecution(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, rows.Err()
}

// finish stores e as the final record of an execution. It returns false, and changes nothing, if the stored
// record was already final.
func (s *Store) finish(tx *sql.Tx, e sandbox.Execution) (stored bool, err error) {
	record, err := encode(e)
	if err != nil {
		return false, err
	}
	res, err := tx.Stmt(s.final).Exec(record, e.ID)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

// maxRecordBytes limits the size of a record. The contents of a record come from a sandbox, which must not be able
// to fill the host's disk.
const maxRecordBytes = 256 << 10

// encode returns the JSON of an execution without its events. If that is longer than maxRecordBytes, it also
// omits the list of files and a long traceback.
func encode(e sandbox.Execution) (string, error) {
	e.Events = nil
	record, err := json.Marshal(e)
	if err == nil && len(record) > maxRecordBytes {
		e.FilesOmitted = []sandbox.OmittedFile{{Path: ".", Reason: fmt.Sprintf("the list of %d files was too long to store", len(e.Files)+len(e.FilesOmitted))}}
		e.Files = nil
		if e.Error != nil && len(e.Error.Traceback)+len(e.Error.Message) > maxRecordBytes/4 {
			e.Error = &sandbox.CodeError{Name: sandbox.Quote(e.Error.Name), Message: sandbox.Quote(e.Error.Message)}
		}
		record, err = json.Marshal(e)
	}
	if err != nil {
		return "", fmt.Errorf("store execution %s: %w", e.ID, err)
	}
	return string(record), nil
}
