package store

import (
	"database/sql"
	"strings"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Rewind is a sandbox's return to a state that was saved before it was lost.
type Rewind struct {
	AsOf  time.Time // when the state was saved; zero: it never went back
	Epoch int       // every kernel_epoch before the rewind was below this one
	Owed  bool      // the guest does not know yet
}

// Rewinding is what [Store.Rewind] needs to know.
type Rewinding struct {
	AsOf, Time time.Time             // the state's, and now
	Keep       []sandbox.ExecutionID // unfinished ones that had not begun, and are still to run
	Lost       string                // the reason of the other unfinished ones
	Undone     string                // the reason of those that ended after AsOf: what they did is gone
}

// Rewind makes a sandbox suspended, as of a state that was saved before, and says of each execution
// what that means for it. Its guest must be told: [Store.SetState] running says that it was.
func (s *Store) Rewind(id sandbox.ID, r Rewinding) (Rewind, error) {
	var done Rewind
	err := s.now(func(tx *sql.Tx) error {
		done = Rewind{AsOf: fromDB(toDB(r.AsOf)), Owed: true}
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
		// The guest continues with the epoch rewound_epoch or, if its kernel is alive, the next one. Each execution in r.Keep has yet to
		// run and can start another kernel.
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

// rewrite changes the record of an execution that is final.
func rewrite(tx *sql.Tx, e sandbox.Execution) error {
	record, err := encode(e)
	if err != nil {
		return err
	}
	_, err = tx.Exec("UPDATE executions SET record = ? WHERE id = ? AND final = 1", record, e.ID)
	return err
}
