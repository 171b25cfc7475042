package manager

import (
	"context"
	"encoding/base64"
	"strconv"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/lifecycle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// statusTimeout is how long a status request waits for the guest.
const statusTimeout = 3 * time.Second

// Get returns a sandbox, with its guest's status if it is running and its guest answers. It does not resume a
// suspended sandbox. It also returns a sandbox that has expired or was lost, with the reason, until the store
// deletes its record. For a deleted sandbox it returns a not-found error.
func (m *Manager) Get(ctx context.Context, name string) (sandbox.Sandbox, error) {
	s, err := m.named(ctx, name)
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	if s != nil {
		st, err := s.observe(ctx)
		if !s.isTerminated() {
			v := m.view(s.record())
			if st != nil && err == nil {
				v.Usage, v.Kernels, v.Executions = &st.Usage, st.Kernels, st.Executions
			}
			return v, nil
		}
	}
	rec, err := m.terminatedNamed(ctx, name)
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	if rec.Cause == store.CauseDeleted {
		return sandbox.Sandbox{}, gone(rec)
	}
	return m.view(rec), nil
}

// observe returns the guest's status, or nil if the sandbox is not running. It waits for a checkpoint, suspend or
// fork that is under way, up to statusTimeout.
func (s *liveSandbox) observe(ctx context.Context) (*guest.Status, error) {
	release, running := s.life.TryAcquire()
	if !running && s.record().State == sandbox.Running {
		limited, cancel := context.WithTimeout(ctx, statusTimeout)
		_ = s.during(limited, func(*lifecycle.Transition) error { return nil })
		cancel()
		release, running = s.life.TryAcquire()
	}
	if !running {
		return nil, nil
	}
	defer release()
	st, err := s.queryStatus(ctx)
	return &st, err
}

// statusCache contains the latest answer of a guest to a status request. mu guards the other fields, and is held
// during the request.
type statusCache struct {
	mu     sync.Mutex
	began  time.Time
	status guest.Status
	err    error
}

// queryStatus returns the guest's status. If another caller has sent a status request after this call began,
// queryStatus returns the answer to that request instead of sending another one. So the status is never older than
// the call. Callers must not change the status, because they share it. The caller must have acquired the sandbox.
func (s *liveSandbox) queryStatus(ctx context.Context) (guest.Status, error) {
	called := time.Now()
	c := &s.status
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.began.After(called) {
		return c.status, c.err
	}
	c.began = time.Now()
	c.err = s.send(ctx, statusTimeout, once, func(ctx context.Context) (err error) {
		c.status, err = s.guest.Status(ctx)
		return err
	})
	for i := range c.status.Executions {
		c.status.Executions[i].SandboxID = s.id
	}
	if ctx.Err() != nil {
		c.began = time.Time{} // the request failed because the caller's ctx ended, so the next caller sends its own
	}
	return c.status, c.err
}

// List returns a page of the sandboxes that ctx's owner may see, newest first. A page token remains valid when
// sandboxes are created or removed. The caller must have validated the state and the page size.
func (m *Manager) List(ctx context.Context, req sandbox.ListRequest) (sandbox.Page, error) {
	size := req.PageSize
	if size == 0 {
		size = sandbox.DefaultPageSize
	}
	before, err := parsePageToken(req.PageToken)
	if err != nil {
		return sandbox.Page{}, err
	}
	limited, cancel := context.WithTimeout(ctx, statusTimeout)
	m.terminateAllDead(limited)
	cancel()
	records, err := m.store.Sandboxes(ctx, sandbox.OwnerOf(ctx), req.State, before, size+1)
	if err != nil {
		return sandbox.Page{}, err
	}
	page := sandbox.Page{Sandboxes: []sandbox.Sandbox{}}
	for i, rec := range records {
		if i == size {
			page.NextPageToken = pageToken(records[size-1].Seq)
			break
		}
		page.Sandboxes = append(page.Sandboxes, m.view(m.newest(rec)))
	}
	return page, nil
}

// newest returns rec with the current time of last use, which may be newer than the one on disk.
func (m *Manager) newest(rec store.Sandbox) store.Sandbox {
	if s := m.created(rec.ID); s != nil {
		rec.UsedTime = s.record().UsedTime
	}
	return rec
}

// pageToken returns the token of the page that follows the record with this sequence number.
func pageToken(seq int64) string {
	return base64.RawURLEncoding.EncodeToString([]byte("p1:" + strconv.FormatInt(seq, 36)))
}

func parsePageToken(token string) (int64, error) {
	if token == "" {
		return 0, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(token)
	if err == nil && len(text) > 3 && string(text[:3]) == "p1:" {
		if seq, err := strconv.ParseInt(string(text[3:]), 36, 64); err == nil && seq > 0 {
			return seq, nil
		}
	}
	return 0, sandbox.Errorf(sandbox.Invalid, "page_token %q is not valid: use next_page_token of the previous page, or none for the first page", sandbox.Quote(token))
}

func (m *Manager) view(r store.Sandbox) sandbox.Sandbox {
	info := m.engine.Info()
	s := sandbox.Sandbox{
		ID: r.ID, DisplayName: r.DisplayName, State: r.State, Reason: r.Reason, Language: r.Language, Image: r.Image,
		Engine: info.Name, Runtime: info.Runtime, Limits: r.Limits, ForkOf: r.ForkOf,
		CreateTime: r.CreateTime, ExpireTime: r.ExpireTime, LastUsed: r.UsedTime, RewoundTo: r.Rewound.AsOf,
	}
	switch r.State {
	case sandbox.Suspended:
		s.SuspendedTo = string(info.Suspend)
	case sandbox.Running:
		s.SavedTime = r.SavedTime
	}
	return s
}

// viewOf is like view for a record that may be nil.
func (m *Manager) viewOf(r *store.Sandbox) sandbox.Sandbox {
	if r == nil {
		return sandbox.Sandbox{}
	}
	return m.view(m.newest(*r))
}

// storeUsed queues a write of the times of last use that have changed since the previous call.
func (m *Manager) storeUsed() {
	used := map[sandbox.ID]time.Time{}
	for _, s := range m.registry.list(isCreated) {
		s.mu.Lock()
		if s.rec.UsedTime.After(s.usedStored) {
			s.usedStored = s.rec.UsedTime
			used[s.id] = s.usedStored
		}
		s.mu.Unlock()
	}
	m.store.SetUsed(used)
}
