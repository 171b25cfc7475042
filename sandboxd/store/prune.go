package store

import (
	"database/sql"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Limits on the records that the store keeps.
const (
	// Retention is how long the records of a terminated sandbox and its executions are kept. The container is
	// usually removed long before the records.
	Retention = 24 * time.Hour
	// MaxExecutions is how many of the newest executions of one sandbox are kept. Older executions are also kept
	// while they are unfinished. MaxExecutions is twice the number of executions that the guest keeps.
	MaxExecutions = 2_000
)

// Prune deletes the records of sandboxes that have no container and were terminated more than Retention before
// now. It also deletes the final executions beyond MaxExecutions.
func (s *Store) Prune(now time.Time) error {
	return s.apply(func(tx *sql.Tx) error {
		if _, err := tx.Exec("DELETE FROM sandboxes WHERE state = ? AND container = 0 AND end_time < ?",
			sandbox.Terminated, toDB(now.Add(-Retention))); err != nil {
			return err
		}
		ids, err := sandboxesOverLimit(tx)
		if err != nil {
			return err
		}
		for _, id := range ids {
			if _, err := tx.Exec(`DELETE FROM executions WHERE sandbox = ? AND final = 1 AND seq <=
				(SELECT seq FROM executions WHERE sandbox = ? ORDER BY seq DESC LIMIT 1 OFFSET ?)`, id, id, MaxExecutions); err != nil {
				return err
			}
		}
		return nil
	})
}

// sandboxesOverLimit returns the sandboxes that have more than MaxExecutions executions.
func sandboxesOverLimit(tx *sql.Tx) ([]sandbox.ID, error) {
	rows, err := tx.Query("SELECT sandbox FROM executions GROUP BY sandbox HAVING count(*) > ?", MaxExecutions)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var ids []sandbox.ID
	for rows.Next() {
		var id sandbox.ID
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}
