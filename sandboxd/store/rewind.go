package store

import (
	"database/sql"
	"strings"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Rewind describes the return of a sandbox to an earlier checkpoint, after its newer state was lost.
type Rewind struct {
	AsOf       time.Time // when the checkpoint was made; zero if the sandbox was never rewound
	Epoch      int       // greater than every kernel_epoch before the rewind
	Unreported bool      // the guest has not been informed of the rewind yet
}

// Rewinding is the argument of [Store.Rewind].
type Rewinding struct {
	AsOf, Time time.Time             // AsOf is the time of the checkpoint, and Time the current time
	Keep       []sandbox.ExecutionID // unfinished executions that will still run, because no client can have seen their effects
	Lost       string                // the reason to record for the other unfinished executions, which are lost
	Undone     string                // the reason to add to executions that ended after AsOf, whose effects are undone
}

// Rewind marks a sandbox as suspended, as of an earlier checkpoint, and updates the records of its executions as
// [Rewinding] describes. Afterwards the caller must inform the guest of the rewind, and then call
// [Store.SetState] with the state running, which records that the guest has been informed.
func (s *Store) Rewind(id sandbox.ID, r Rewinding) (Rewind, error) {
	var done Rewind
	err := s.apply(func(tx *sql.Tx) error {
		done = Rewind{AsOf: fromDB(toDB(r.AsOf)), Unreported: true}
		all, err := queryExecutions(tx, "WHERE sandbox = ? ORDER BY seq", id)
		if err != nil {
			return err
		}
		keep := map[sandbox.ExecutionID]bool{}
		for _, id := range r.Keep {
			keep[id] = true
		}
		for _, e := range all {
			switch {
			case !e.State.Final() && !keep[e.ID]:
				e.State, e.Reason, e.EndTime = sandbox.ExecLost, r.Lost, r.Time
				_, err = s.finish(tx, e.Execution)
			case e.State.Final() && e.EndTime.After(r.AsOf) && !e.StartTime.IsZero() && !strings.Contains(e.Reason, r.Undone):
				e.Reason = strings.Join(nonEmpty(e.Reason, r.Undone), "; ")
				err = rewrite(tx, e.Execution)
			}
			if err != nil {
				return err
			}
		}
		// When the guest is informed of the rewind, its next kernel_epoch is at most rewound_epoch + 1. Each
		// execution in r.Keep will still run and can start another kernel. The new epoch_bound includes all of
		// these epochs.
		err = oneRow(tx.Exec(`UPDATE sandboxes SET state = ?, rewound_as_of = ?, rewound_owed = 1, rewound_epoch = epoch_bound + 1, epoch_bound = epoch_bound + 2 + ?
			WHERE id = ? AND state IN (?, ?)`,
			sandbox.Suspended, toDB(r.AsOf), len(r.Keep), id, sandbox.Running, sandbox.Suspended))
		if err != nil {
			return err
		}
		return tx.QueryRow("SELECT rewound_epoch FROM sandboxes WHERE id = ?", id).Scan(&done.Epoch)
	})
	return done, err
}

func nonEmpty(texts ...string) (some []string) {
	for _, t := range texts {
		if t != "" {
			some = append(some, t)
		}
	}
	return some
}

// rewrite replaces the final record of an execution.
func rewrite(tx *sql.Tx, e sandbox.Execution) error {
	record, err := encode(e)
	if err != nil {
		return err
	}
	_, err = tx.Exec("UPDATE executions SET record = ? WHERE id = ? AND final = 1", record, e.ID)
	return err
}
