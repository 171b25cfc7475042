package manager

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/lifecycle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// registry contains the sandboxes that are being created, running or suspended, and the terminated sandboxes whose
// container may still exist. It is safe for concurrent use.
type registry struct {
	mu  sync.Mutex
	all map[sandbox.ID]*liveSandbox
}

func (r *registry) add(s *liveSandbox) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all[s.id] = s
}

func (r *registry) remove(id sandbox.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.all, id)
}

// get returns the sandbox with this id, or nil.
func (r *registry) get(id sandbox.ID) *liveSandbox {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all[id]
}

// list returns the sandboxes for which all of the given conditions hold.
func (r *registry) list(conditions ...func(*liveSandbox) bool) []*liveSandbox {
	r.mu.Lock()
	all := make([]*liveSandbox, 0, len(r.all))
	for _, s := range r.all {
		all = append(all, s)
	}
	r.mu.Unlock()
	for _, holds := range conditions {
		all = slices.DeleteFunc(all, func(s *liveSandbox) bool { return !holds(s) })
	}
	return all
}

// isCreated reports whether the creation of the sandbox has succeeded and its termination is not on record. Clients
// can use such a sandbox.
func isCreated(s *liveSandbox) bool {
	switch s.life.State() {
	case lifecycle.Provisioning, lifecycle.Terminated:
		return false
	case lifecycle.Terminating: // a sandbox that was never created completely can be in this state too
		return s.record().State != sandbox.Provisioning
	}
	return true
}

// isPresent reports whether a client can use the sandbox, or will be able to when its creation has ended.
func isPresent(s *liveSandbox) bool {
	return isCreated(s) || s.creation.isUnderWay()
}

// created returns the sandbox with this id if isCreated holds for it, and nil otherwise.
func (m *Manager) created(id sandbox.ID) *liveSandbox {
	if s := m.registry.get(id); s != nil && isCreated(s) {
		return s
	}
	return nil
}

// find returns the running or suspended sandbox with this id or display name, and counts the call as a use of it.
// It waits for a sandbox that is being created. If the sandbox was terminated, the error states why. For a sandbox
// that ctx's owner may not see, the error is the same as for a sandbox that does not exist.
func (m *Manager) find(ctx context.Context, name string) (*liveSandbox, error) {
	s, err := m.named(ctx, name)
	if err != nil {
		return nil, err
	}
	if s == nil {
		rec, err := m.terminatedNamed(ctx, name)
		if err != nil {
			return nil, err
		}
		return nil, gone(rec)
	}
	if s.creation != nil {
		select {
		case <-s.creation.done:
			if s.creation.err != nil {
				return nil, noSandbox(name)
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if !m.now().Before(s.expires()) {
		m.expiryMoved()
		return nil, expired(s.id, s.expires())
	}
	s.use(m.now())
	return s, nil
}

// named returns the sandbox with this id or display name that is running, suspended or being created, or nil.
// An id can name any sandbox that ctx's owner may see. A display name can only name the owner's own sandboxes,
// because otherwise the display names of other owners could make a name ambiguous for the operator.
func (m *Manager) named(ctx context.Context, name string) (*liveSandbox, error) {
	owner := sandbox.OwnerOf(ctx)
	if sandbox.IsID(name) {
		if s := m.registry.get(sandbox.ID(name)); s != nil && isPresent(s) && owner.Sees(s.owner) {
			return s, nil
		}
		return nil, nil
	}
	if name == "" {
		return nil, sandbox.Errorf(sandbox.Invalid, "the name of the sandbox is empty: give its id or its display name")
	}
	found := m.registry.list(isPresent, func(s *liveSandbox) bool { return s.owner == owner && s.record().DisplayName == name })
	switch len(found) {
	case 0:
		return nil, nil
	case 1:
		return found[0], nil
	}
	ids := make([]string, 0, len(found))
	for _, s := range found {
		ids = append(ids, string(s.id))
	}
	slices.Sort(ids)
	more := ""
	if len(ids) > 5 {
		ids, more = ids[:5], ", …"
	}
	return nil, sandbox.Errorf(sandbox.Invalid, "more than one sandbox has the display name %q (%s%s): name one by its id", sandbox.Quote(name), strings.Join(ids, ", "), more)
}

// terminatedNamed returns the record of the terminated sandbox with this id or display name, if ctx's owner may see
// it. A display name selects the owner's newest sandbox with that name. terminatedNamed returns a not-found error
// if the store does not have such a record, or not any more, or if the sandbox is not terminated.
func (m *Manager) terminatedNamed(ctx context.Context, name string) (store.Sandbox, error) {
	const longest = 4 * sandbox.MaxDisplayName // in bytes, because MaxDisplayName is in characters of up to 4 bytes
	if len(name) > longest {
		return store.Sandbox{}, noSandbox(name)
	}
	owner := sandbox.OwnerOf(ctx)
	var rec store.Sandbox
	var err error
	if sandbox.IsID(name) {
		rec, err = m.store.SandboxFor(ctx, owner, sandbox.ID(name))
	} else {
		rec, err = m.store.NewestNamed(ctx, owner, name)
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
	return sandbox.Errorf(sandbox.Expired, "sandbox %s has expired: its TTL ended at %s, and its variables and files are gone. Create a new one", id, stamp(at))
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
