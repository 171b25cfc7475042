package store

import (
	"context"
	"strings"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Sandbox returns a sandbox's record, or [ErrNotFound].
func (s *Store) Sandbox(ctx context.Context, id sandbox.ID) (Sandbox, error) {
	return scanSandbox(s.read.QueryRowContext(ctx, "SELECT "+sandboxColumns+" FROM sandboxes WHERE id = ?", id))
}

// SandboxFor returns a sandbox's record if viewer may see it, and [ErrNotFound] otherwise. The time
// that the call takes does not reveal whether a sandbox of another owner exists, because the database compares
// the owners, and only a record that is returned is decoded.
func (s *Store) SandboxFor(ctx context.Context, viewer sandbox.Owner, id sandbox.ID) (Sandbox, error) {
	return scanSandbox(s.read.QueryRowContext(ctx, "SELECT "+sandboxColumns+" FROM sandboxes WHERE id = ? AND (owner = ? OR ?)", id, viewer, viewer == sandbox.Operator))
}

// SandboxByRequest returns the sandbox of an owner that was created with this request id, or [ErrNotFound].
func (s *Store) SandboxByRequest(ctx context.Context, owner sandbox.Owner, requestID string) (Sandbox, error) {
	return scanSandbox(s.read.QueryRowContext(ctx, "SELECT "+sandboxColumns+" FROM sandboxes WHERE owner = ? AND request_id = ?", owner, requestID))
}

// NewestNamed returns an owner's newest sandbox with a display name, terminated or not, or [ErrNotFound].
func (s *Store) NewestNamed(ctx context.Context, owner sandbox.Owner, name string) (Sandbox, error) {
	return scanSandbox(s.read.QueryRowContext(ctx, "SELECT "+sandboxColumns+" FROM sandboxes WHERE owner = ? AND display_name = ? AND display_name <> '' ORDER BY seq DESC LIMIT 1", owner, name))
}

// Present returns the sandboxes that are not terminated, and terminated sandboxes whose container may still
// exist, oldest first.
func (s *Store) Present(ctx context.Context) ([]Sandbox, error) {
	return s.querySandboxes(ctx, "WHERE state <> ? OR container = 1 ORDER BY seq", sandbox.Terminated)
}

// Sandboxes returns at most limit sandboxes that an owner may see and that are in the given state, newest first.
// An empty state selects all states except terminated. If before is not 0, Sandboxes returns only records whose
// Seq is smaller than before.
func (s *Store) Sandboxes(ctx context.Context, owner sandbox.Owner, state sandbox.State, before int64, limit int) ([]Sandbox, error) {
	if before == 0 {
		before = 1<<63 - 1
	}
	where := "WHERE state = ? AND seq < ? AND (owner = ? OR ?) ORDER BY seq DESC LIMIT ?"
	if state == "" {
		state, where = sandbox.Terminated, strings.Replace(where, "state =", "state <>", 1)
	}
	return s.querySandboxes(ctx, where, state, before, owner, owner == sandbox.Operator, limit)
}

func (s *Store) querySandboxes(ctx context.Context, where string, args ...any) ([]Sandbox, error) {
	rows, err := s.read.QueryContext(ctx, "SELECT "+sandboxColumns+" FROM sandboxes "+where, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []Sandbox
	for rows.Next() {
		r, err := scanSandbox(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, rows.Err()
}
