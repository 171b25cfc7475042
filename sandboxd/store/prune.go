package store

import (
	"database/sql"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// What is kept, and how long.
const (
	// Retention is how long the record of a terminated sandbox, and those of its
	// executions, can be looked at. Its container is gone long before.
	Retention = 24 * time.Hour
	// MaxExecutions is how many executions of one sandbox are kept, newest first and not
	// counting unfinished ones that are older: twice as many as its guest remembers.
	MaxExecutions = 2_000
)

// Prune forgets what is older than it is kept. It is called now and then.
func (s *Store) Prune(now time.Time) error {
	return s.now(func(tx *sql.Tx) error {
		if _, err := tx.Exec("DELETE FROM sandboxes WHERE state = ? AND container = 0 AND end_time < ?",
			sandbox.Terminated, toDB(now.Add(-Retention))); err != nil {
			return err
		}
		full, err := tooMany(tx)
		if err != nil {
			return err
		}
		for _, id := range full {
			if _, err := tx.Exec(`DELETE FROM executions WHERE sandbox = ? AND final = 1 AND seq <=
				(SELECT seq FROM executions WHERE sandbox = ? ORDER BY seq DESC LIMIT 1 OFFSET ?)`, id, id, MaxExecutions); err != nil {
				return err
			}
		}
		return nil
	})
}

// tooMany returns the sandboxes that have more executions than are kept.
func tooMany(tx *sql.Tx) ([]sandbox.ID, error) {
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
