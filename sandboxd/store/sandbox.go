package store

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Cause is the kind of reason for which a sandbox was terminated.
type Cause string

// Causes of termination.
const (
	CauseDeleted Cause = "deleted" // a client deleted the sandbox
	CauseExpired Cause = "expired" // the sandbox reached the end of its TTL
	CauseLost    Cause = "lost"    // the container stopped or disappeared although no client asked for it, or it can never be resumed
	CauseFailed  Cause = "failed"  // the creation of the sandbox failed
)

// Sandbox is the record of a sandbox.
type Sandbox struct {
	Seq         int64 // order of creation; set by the store
	ID          sandbox.ID
	Owner       sandbox.Owner
	DisplayName string
	State       sandbox.State
	Cause       Cause  // the kind of reason for the termination; empty until then
	Reason      string // the reason for the termination, in a sentence; empty until then
	Language    sandbox.Language
	Image       string
	Limits      sandbox.Limits
	UID         int
	ForkOf      sandbox.ID // the id of the original, if the sandbox is a fork
	// Container is true while the engine may have a container for the sandbox. It is set before the engine is
	// asked to create the container, and cleared when the container no longer exists. While it is true, no other
	// sandbox has the same UID. The exceptions are forks, which have the UID of their original, and sandboxes
	// with a UID below 200,000, which do not share an operating-system kernel with other sandboxes.
	Container   bool
	RequestID   string
	RequestHash []byte
	CreateTime  time.Time
	ExpireTime  time.Time
	UsedTime    time.Time
	EndTime     time.Time
	// SavedTime is the time of the checkpoint that the engine has of the sandbox. It is zero if there is none.
	SavedTime time.Time
	Rewound   Rewind
}

const sandboxColumns = `seq, id, owner, display_name, state, cause, reason, language, image, limits, uid, fork_of, container,
	coalesce(request_id, ''), request_hash, create_time, expire_time, used_time, end_time,
	saved_time, rewound_as_of, rewound_epoch, rewound_owed`

func scanSandbox(row interface{ Scan(...any) error }) (Sandbox, error) {
	var r Sandbox
	var limits string
	var create, expire, used, end, saved, asOf int64
	err := row.Scan(&r.Seq, &r.ID, &r.Owner, &r.DisplayName, &r.State, &r.Cause, &r.Reason, &r.Language, &r.Image, &limits, &r.UID, &r.ForkOf, &r.Container,
		&r.RequestID, &r.RequestHash, &create, &expire, &used, &end,
		&saved, &asOf, &r.Rewound.Epoch, &r.Rewound.Unreported)
	if err == sql.ErrNoRows {
		return r, ErrNotFound
	}
	if err != nil {
		return r, fmt.Errorf("read a sandbox's record: %w", err)
	}
	if err := json.Unmarshal([]byte(limits), &r.Limits); err != nil {
		return r, fmt.Errorf("read the record of sandbox %s: %w", r.ID, err)
	}
	r.CreateTime, r.ExpireTime, r.UsedTime, r.EndTime = fromDB(create), fromDB(expire), fromDB(used), fromDB(end)
	r.SavedTime, r.Rewound.AsOf = fromDB(saved), fromDB(asOf)
	return r, nil
}

// AddSandbox stores a new sandbox in the state provisioning and with Container set. The error is
// [ErrRequestTaken] if another sandbox of the same owner has the request id.
func (s *Store) AddSandbox(r Sandbox) error {
	limits, err := json.Marshal(r.Limits)
	if err != nil {
		return err
	}
	return s.apply(func(tx *sql.Tx) error {
		_, err := tx.Exec(`INSERT INTO sandboxes (id, owner, display_name, state, cause, reason, language, image, limits, uid, fork_of, container,
			request_id, request_hash, create_time, expire_time, used_time, end_time)
			VALUES (?, ?, ?, ?, '', '', ?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?, 0)`,
			r.ID, r.Owner, r.DisplayName, sandbox.Provisioning, r.Language, r.Image, string(limits), r.UID, r.ForkOf,
			nullable(r.RequestID), r.RequestHash, toDB(r.CreateTime), toDB(r.ExpireTime), toDB(r.UsedTime))
		if isDuplicate(err) && strings.Contains(err.Error(), "request_id") {
			return ErrRequestTaken
		}
		if err != nil {
			return fmt.Errorf("store sandbox %s: %w", r.ID, err)
		}
		return nil
	})
}

// SetRunning records that a provisioning sandbox is running. If the sandbox is a fork, SetRunning raises its
// epoch_bound to that of the original, because the fork's kernel_epoch continues from the original's.
func (s *Store) SetRunning(id sandbox.ID) error {
	return s.apply(func(tx *sql.Tx) error {
		return oneRow(tx.Exec(`UPDATE sandboxes SET state = ?, epoch_bound = max(epoch_bound, coalesce((SELECT original.epoch_bound FROM sandboxes original WHERE original.id = sandboxes.fork_of), 0))
			WHERE id = ? AND state = ?`, sandbox.Running, id, sandbox.Provisioning))
	})
}

// SetState records whether a sandbox is running or suspended. The state running also records that the guest has
// been informed of the last rewind. SetState works on a full disk, because a client that wants to free space may
// have to resume a sandbox and read its files before it deletes the sandbox.
func (s *Store) SetState(id sandbox.ID, state sandbox.State) error {
	return s.submit(change{reserveLeft: reserveBytes / 2, run: func(tx *sql.Tx) error {
		return oneRow(tx.Exec("UPDATE sandboxes SET state = ?1, rewound_owed = min(rewound_owed, ?1 <> ?3) WHERE id = ?2 AND state IN (?3, ?4)",
			state, id, sandbox.Running, sandbox.Suspended))
	}})
}

// SetSaved records, with a short delay, when a sandbox's checkpoint was made. A zero t records that there is no
// checkpoint.
func (s *Store) SetSaved(id sandbox.ID, t time.Time) {
	s.applyLater(func(tx *sql.Tx) error {
		_, err := tx.Exec("UPDATE sandboxes SET saved_time = ? WHERE id = ?", toDB(t), id)
		return err
	})
}

// RemoveSandbox deletes the record of a sandbox that could not be created and has no container.
func (s *Store) RemoveSandbox(id sandbox.ID) error {
	return s.apply(func(tx *sql.Tx) error {
		_, err := tx.Exec("DELETE FROM sandboxes WHERE id = ?", id)
		return err
	})
}

// UpdateSandbox changes the display name and the expiry of a sandbox that has not been terminated.
func (s *Store) UpdateSandbox(id sandbox.ID, name string, expire time.Time) error {
	return s.apply(func(tx *sql.Tx) error {
		return oneRow(tx.Exec("UPDATE sandboxes SET display_name = ?, expire_time = ? WHERE id = ? AND state <> ?",
			name, toDB(expire), id, sandbox.Terminated))
	})
}

// Termination describes how and when a sandbox was terminated.
type Termination struct {
	Cause  Cause
	Reason string
	Time   time.Time
	Used   time.Time // time of last use
	// Executions is the reason to record for the sandbox's unfinished executions, which are lost.
	Executions string
}

// TerminateSandbox marks a sandbox as terminated, and its unfinished executions as lost. It works on a full disk. If
// the sandbox could not be created (CauseFailed), TerminateSandbox releases its request id, so that a retry creates a
// new sandbox.
func (s *Store) TerminateSandbox(id sandbox.ID, end Termination) error {
	return s.applyWithReserve(func(tx *sql.Tx) error {
		err := oneRow(tx.Exec(`UPDATE sandboxes SET state = ?, cause = ?, reason = ?, end_time = ?, used_time = max(used_time, ?),
			request_id = CASE WHEN ? THEN NULL ELSE request_id END WHERE id = ? AND state <> ?`,
			sandbox.Terminated, end.Cause, end.Reason, toDB(end.Time), toDB(end.Used), end.Cause == CauseFailed, id, sandbox.Terminated))
		if err != nil {
			return err
		}
		unfinished, err := queryExecutions(tx, "WHERE sandbox = ? AND final = 0", id)
		if err != nil {
			return err
		}
		for _, e := range unfinished {
			e.State, e.Reason, e.EndTime = sandbox.ExecLost, end.Executions, end.Time
			if _, err := s.finish(tx, e.Execution); err != nil {
				return err
			}
		}
		return nil
	})
}

// SetContainerRemoved records, with a short delay, that the engine no longer has the container of a terminated
// sandbox.
func (s *Store) SetContainerRemoved(id sandbox.ID) {
	s.applyLater(func(tx *sql.Tx) error {
		_, err := tx.Exec("UPDATE sandboxes SET container = 0 WHERE id = ? AND state = ?", id, sandbox.Terminated)
		return err
	})
}

// SetUsed records, with a short delay, when sandboxes were last used. It does not replace a recorded time by an
// earlier one.
func (s *Store) SetUsed(times map[sandbox.ID]time.Time) {
	if len(times) == 0 {
		return
	}
	s.applyLater(func(tx *sql.Tx) error {
		for id, t := range times {
			if _, err := tx.Exec("UPDATE sandboxes SET used_time = max(used_time, ?) WHERE id = ?", toDB(t), id); err != nil {
				return err
			}
		}
		return nil
	})
}
