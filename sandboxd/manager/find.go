package manager

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// find returns the running or suspended sandbox with this id or display name. It waits for a sandbox that is
// being created. If the sandbox was terminated, the error states why. For a sandbox that ctx's owner may not
// see, the error is the same as for one that does not exist.
func (m *Manager) find(ctx context.Context, name string) (*box, error) {
	for {
		b, c, err := m.named(ctx, name)
		switch {
		case err != nil:
			return nil, err
		case b != nil && !m.now().Before(b.expires()):
			m.expiryMoved()
			return nil, expired(b.id, b.expires())
		case b != nil:
			b.use(m.now())
			return b, nil
		case c == nil:
			rec, err := m.endedNamed(ctx, name)
			if err != nil {
				return nil, err
			}
			return nil, gone(rec)
		}
		select {
		case <-c.done:
			if c.err != nil {
				return nil, noSandbox(name)
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// named returns the sandbox with this id or display name that is running, suspended or being created, or nil.
// An id can name any sandbox that ctx's owner may see. A display name can only name the owner's own sandboxes,
// because otherwise the display names of other owners could make a name ambiguous for the operator.
func (m *Manager) named(ctx context.Context, name string) (*box, *creation, error) {
	owner := sandbox.OwnerOf(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	if sandbox.IsID(name) {
		b, c := m.boxes[sandbox.ID(name)], m.creating[sandbox.ID(name)]
		if b != nil && !owner.Sees(b.owner) {
			b = nil
		}
		if c != nil && !owner.Sees(c.rec.Owner) {
			c = nil
		}
		return b, c, nil
	}
	if name == "" {
		return nil, nil, sandbox.Errorf(sandbox.Invalid, "no sandbox is named: give its id or its display name")
	}
	var box *box
	var making *creation
	var ids []string
	for _, b := range m.boxes {
		if b.owner == owner && b.record().DisplayName == name {
			box, ids = b, append(ids, string(b.id))
		}
	}
	for _, c := range m.creating {
		if c.rec.Owner == owner && c.rec.DisplayName == name {
			making, ids = c, append(ids, string(c.rec.ID))
		}
	}
	if len(ids) > 1 {
		slices.Sort(ids)
		more := ""
		if len(ids) > 5 {
			ids, more = ids[:5], ", …"
		}
		return nil, nil, sandbox.Errorf(sandbox.Invalid, "more than one sandbox has the display name %q (%s%s): name one by its id", sandbox.Quote(name), strings.Join(ids, ", "), more)
	}
	return box, making, nil
}

// endedNamed returns the record of a terminated sandbox that ctx's owner may see. It returns a not-found error
// when the store has deleted the record.
func (m *Manager) endedNamed(ctx context.Context, name string) (store.Sandbox, error) {
	const longest = 4 * sandbox.MaxDisplayName // in bytes, because MaxDisplayName is in characters of up to 4 bytes
	if len(name) > longest {
		return store.Sandbox{}, noSandbox(name)
	}
	owner := sandbox.OwnerOf(ctx)
	var rec store.Sandbox
	var err error
	if sandbox.IsID(name) {
		rec, err = m.Store.SandboxFor(ctx, owner, sandbox.ID(name))
	} else {
		rec, err = m.Store.NewestNamed(ctx, owner, name)
	}
	if errors.Is(err, store.ErrNotFound) || err == nil && rec.State != sandbox.Terminated {
		return store.Sandbox{}, noSandbox(name)
	}
	return rec, err
}

func noSandbox(name string) error {
	return sandbox.Errorf(sandbox.NotFound, "there is no sandbox %q", sandbox.Quote(name))
}

// gone returns the error for the use of a terminated sandbox.
func gone(rec store.Sandbox) error {
	switch rec.Cause {
	case store.CauseDeleted:
		return sandbox.Errorf(sandbox.NotFound, "sandbox %s was deleted at %s on request, with its variables and files. Create a new one", rec.ID, stamp(rec.EndTime))
	case store.CauseExpired:
		return expired(rec.ID, rec.ExpireTime)
	}
	return sandbox.Errorf(sandbox.Expired, "sandbox %s is gone, with its variables and files: %s. Create a new one", rec.ID, rec.Reason)
}

func expired(id sandbox.ID, at time.Time) error {
	return sandbox.Errorf(sandbox.Expired, "sandbox %s has expired: its time was over at %s, and its variables and files are gone. Create a new one", id, stamp(at))
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
