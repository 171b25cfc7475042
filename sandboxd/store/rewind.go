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
	Epoch int       // no kernel_epoch before the rewind was above this one
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
		lost := 0
		for _, e := range all {
			done.Epoch = max(done.Epoch, e.KernelEpoch)
			switch {
			case !e.State.Final() && !keep[e.ID]:
				lost++
				e.State, e.Reason, e.EndTime = sandbox.ExecLost, r.Lost, r.Time
				err = s.finish(tx, e.Execution)
			case e.State.Final() && e.EndTime.After(r.AsOf) && !e.StartTime.IsZero() && !strings.Contains(e.Reason, r.Undone):
				e.Reason = strings.Join(nonEmpty(e.Reason, r.Undone), "; ")
				err = rewrite(tx, e.Execution)
			}
			if err != nil {
				return err
			}
		}
		done.Epoch += lost // each may have lost the variables once
		err = oneRow(tx.Exec(`UPDATE sandboxes SET state = ?, rewound_as_of = ?, rewound_epoch = max(rewound_epoch, ?), rewound_owed = 1 WHERE id = ? AND state IN (?, ?)`,
			sandbox.Suspended, toDB(r.AsOf), done.Epoch, id, sandbox.Running, sandbox.Suspended))
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
