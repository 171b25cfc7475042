package store

import (
	"context"
	"database/sql"
	"fmt"
)

// migrations update a database from one schema version to the next: migrations[n] creates version n+1. A
// released migration must never be edited.
var migrations = []string{
	// 1: sandboxes and executions.
	`
	CREATE TABLE sandboxes (
		seq          INTEGER PRIMARY KEY, -- order of creation
		id           TEXT NOT NULL UNIQUE,
		display_name TEXT NOT NULL,
		state        TEXT NOT NULL CHECK (state IN ('provisioning', 'running', 'suspended', 'terminated')),
		cause        TEXT NOT NULL,       -- of its end: a store.Cause
		reason       TEXT NOT NULL,       -- of its end, in a sentence
		language     TEXT NOT NULL,
		image        TEXT NOT NULL,
		limits       TEXT NOT NULL,       -- JSON of sandbox.Limits
		uid          INTEGER NOT NULL,
		container    INTEGER NOT NULL,    -- 1 while the engine may have its container
		request_id   TEXT,
		request_hash BLOB,
		create_time  INTEGER NOT NULL,
		expire_time  INTEGER NOT NULL,
		used_time    INTEGER NOT NULL,
		end_time     INTEGER NOT NULL
	) STRICT;
	CREATE UNIQUE INDEX sandboxes_by_request ON sandboxes (request_id) WHERE request_id IS NOT NULL;
	CREATE INDEX sandboxes_by_state ON sandboxes (state, seq);
	CREATE INDEX sandboxes_by_name ON sandboxes (display_name, seq) WHERE display_name <> '';
	-- No two containers have one uid, whatever the code above does.
	CREATE UNIQUE INDEX sandboxes_by_uid ON sandboxes (uid) WHERE container = 1;

	CREATE TABLE executions (
		seq          INTEGER PRIMARY KEY, -- order of acceptance
		id           TEXT NOT NULL UNIQUE,
		sandbox      TEXT NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
		final        INTEGER NOT NULL,    -- 1 when nothing more will come of it
		request_id   TEXT,
		request_hash BLOB,
		record       TEXT NOT NULL        -- JSON of sandbox.Execution, without events
	) STRICT;
	CREATE UNIQUE INDEX executions_by_request ON executions (request_id) WHERE request_id IS NOT NULL;
	CREATE INDEX executions_by_sandbox ON executions (sandbox, seq);
	CREATE INDEX executions_unfinished ON executions (sandbox) WHERE final = 0;
	`,
	// 2: forks. A fork has the uid of its original, because that uid owns the files that the fork inherits. So
	// the unique index on uids exempts forks. That is safe: on every engine that can fork, each sandbox has its
	// own operating-system kernel, so uids have no meaning outside of the sandbox.
	`
	ALTER TABLE sandboxes ADD COLUMN fork_of TEXT NOT NULL DEFAULT ''; -- id of the original
	DROP INDEX sandboxes_by_uid;
	CREATE UNIQUE INDEX sandboxes_by_uid ON sandboxes (uid) WHERE container = 1 AND fork_of = '';
	`,
	// 3: the time of the last checkpoint of a sandbox, and its last return to a checkpoint (rewind).
	`
	ALTER TABLE sandboxes ADD COLUMN saved_time    INTEGER NOT NULL DEFAULT 0; -- of the last checkpoint
	ALTER TABLE sandboxes ADD COLUMN rewound_as_of INTEGER NOT NULL DEFAULT 0; -- a store.Rewind, the last
	ALTER TABLE sandboxes ADD COLUMN rewound_epoch INTEGER NOT NULL DEFAULT 0;
	ALTER TABLE sandboxes ADD COLUMN rewound_owed  INTEGER NOT NULL DEFAULT 0; -- 1 while the guest does not know of it
	`,
	// 4: owners. Existing records belong to the operator. Request ids are unique for each requester. The
	// requester of an execution can differ from the owner of its sandbox, because the operator can run code in
	// any sandbox.
	`
	ALTER TABLE sandboxes  ADD COLUMN owner     TEXT NOT NULL DEFAULT '';
	ALTER TABLE executions ADD COLUMN owner     TEXT NOT NULL DEFAULT ''; -- its sandbox's
	ALTER TABLE executions ADD COLUMN requester TEXT NOT NULL DEFAULT '';
	DROP INDEX sandboxes_by_request;
	DROP INDEX sandboxes_by_name;
	DROP INDEX executions_by_request;
	CREATE UNIQUE INDEX sandboxes_by_request ON sandboxes (owner, request_id) WHERE request_id IS NOT NULL;
	CREATE INDEX sandboxes_by_name ON sandboxes (owner, display_name, seq) WHERE display_name <> '';
	CREATE UNIQUE INDEX executions_by_request ON executions (requester, request_id) WHERE request_id IS NOT NULL;
	`,
	// 5: all sandboxes on an engine with snapshots have the uid 199,999, because that uid owns the files of the
	// snapshots. The manager assigns uids from 200,000 on other engines, where sandboxes can share an
	// operating-system kernel. Only these uids must be unique.
	`
	DROP INDEX sandboxes_by_uid;
	CREATE UNIQUE INDEX sandboxes_by_uid ON sandboxes (uid) WHERE container = 1 AND fork_of = '' AND uid >= 200000;
	`,
	// 6: an upper bound on the kernel_epoch of each sandbox. It is valid even if the end of an execution, which
	// contains its kernel_epoch, was not recorded. The epochs of a fork continue from the epoch that its original
	// had at the time of the fork. Older schemas did not record that epoch, so this migration gives each fork the
	// highest bound of all sandboxes. An execution whose record is not valid JSON counts as one without an epoch.
	`
	ALTER TABLE sandboxes ADD COLUMN epoch_bound INTEGER NOT NULL DEFAULT 2; -- see acceptEpoch in execution.go
	UPDATE sandboxes SET epoch_bound = 3 + rewound_epoch + (SELECT count(*) + coalesce(max(CASE WHEN json_valid(record) THEN json_extract(record, '$.kernel_epoch') END), 0) FROM executions WHERE sandbox = sandboxes.id);
	UPDATE sandboxes SET epoch_bound = (SELECT max(epoch_bound) FROM sandboxes) WHERE fork_of <> '';
	`,
}

// applicationID identifies the file as a Dormouse database: "DORM".
const applicationID = 0x444f524d

// prepare checks the database and migrates it to the current schema.
func prepare(ctx context.Context, db *sql.DB) error {
	const damaged = "it is damaged (%w): move it away to start without records, or restore it from a backup"
	unreadable := func(err error) error {
		if IsFull(err) {
			return fmt.Errorf("its disk is full (%w): free some space", err)
		}
		return fmt.Errorf(damaged, err)
	}
	var app, version, tables int
	if err := db.QueryRowContext(ctx, "PRAGMA application_id").Scan(&app); err != nil {
		return unreadable(err)
	}
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return unreadable(err)
	}
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&tables); err != nil {
		return unreadable(err)
	}
	switch {
	case app != applicationID && (app != 0 || version != 0 || tables != 0):
		return fmt.Errorf("it is not a Dormouse database: move it away, or use another DORMOUSE_HOME")
	case version > len(migrations):
		return fmt.Errorf("a newer Dormouse wrote it (schema %d, and this version supports up to %d): use the newer version, or another DORMOUSE_HOME", version, len(migrations))
	}
	var result string
	if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&result); err != nil {
		return unreadable(err)
	}
	if result != "ok" {
		return fmt.Errorf(damaged, fmt.Errorf("%s", result))
	}
	// Change the journal mode only after these checks, so that a file that is not a Dormouse database stays
	// unchanged.
	if err := db.QueryRowContext(ctx, "PRAGMA journal_mode = WAL").Scan(&result); err != nil {
		return fmt.Errorf("enable its write-ahead log: %w", err)
	}
	if result != "wal" {
		return fmt.Errorf("its journal mode is %s and cannot be changed to WAL, because the file system does not support it: use a DORMOUSE_HOME on a local disk", result)
	}
	for v := version; v < len(migrations); v++ {
		if err := migrate(ctx, db, v); err != nil {
			return fmt.Errorf("migrate it from schema %d to %d: %w", v, v+1, err)
		}
	}
	return nil
}

func migrate(ctx context.Context, db *sql.DB, from int) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing after a commit
	if _, err := tx.ExecContext(ctx, migrations[from]); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d; PRAGMA application_id = %d", from+1, applicationID)); err != nil {
		return err
	}
	return tx.Commit()
}
