package manager

import (
	"context"
	"encoding/base64"
	"strconv"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// statusTimeout is how long a status request waits for the guest.
const statusTimeout = 3 * time.Second

// Get returns a sandbox, with its guest's status if it is running and its guest answers. It does not resume a
// suspended sandbox. It also returns a sandbox that has expired or was lost, with the reason, until the store
// deletes its record. For a deleted sandbox it returns a not-found error.
func (m *Manager) Get(ctx context.Context, name string) (sandbox.Sandbox, error) {
	b, c, err := m.named(ctx, name)
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	if b != nil {
		var st guest.Status
		release, awake := b.holdAwake()
		if !awake && b.record().State == sandbox.Running { // wait for a checkpoint, suspend or fork that is under way
			limited, cancel := context.WithTimeout(ctx, statusTimeout)
			_ = b.change(limited, func() error { return nil })
			cancel()
			release, awake = b.holdAwake()
		}
		if awake {
			st, err = m.status(ctx, b)
			release()
		}
		if b.alive() {
			s := m.view(b.record())
			if awake && err == nil {
				s.Usage, s.Kernels, s.Executions = &st.Usage, st.Kernels, st.Executions
			}
			return s, nil
		}
	} else if c != nil {
		return m.view(c.rec), nil
	}
	rec, err := m.endedNamed(ctx, name)
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	if rec.Cause == store.CauseDeleted {
		return sandbox.Sandbox{}, gone(rec)
	}
	return m.view(rec), nil
}

// look is the latest answer of a guest to a status request. look.mu guards the other fields, and is held during
// the request.
type look struct {
	mu     sync.Mutex
	began  time.Time
	status guest.Status
	err    error
}

// status returns the guest's status. A caller can share the answer to another caller's request, but only if that
// request was sent after the caller called status, so that the answer is not older than the call. Callers must
// not change the status, because they share it. The caller must have called holdAwake.
func (m *Manager) status(ctx context.Context, b *box) (guest.Status, error) {
	asked := time.Now()
	l := &b.last
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.began.After(asked) {
		return l.status, l.err
	}
	l.began = time.Now()
	l.err = m.send(ctx, b, statusTimeout, once, func(ctx context.Context) (err error) {
		l.status, err = b.guest.Status(ctx)
		return err
	})
	for i := range l.status.Executions {
		l.status.Executions[i].SandboxID = b.id
	}
	if ctx.Err() != nil {
		l.began = time.Time{} // the request failed because the caller's ctx ended, so the next caller sends its own
	}
	return l.status, l.err
}

// List returns a page of the sandboxes that ctx's owner may see, newest first. A page token remains valid when
// sandboxes are created or removed.
func (m *Manager) List(ctx context.Context, req sandbox.ListRequest) (sandbox.Page, error) {
	size := req.PageSize
	if size == 0 {
		size = sandbox.DefaultPageSize
	}
	if size < 1 || size > sandbox.MaxPageSize {
		return sandbox.Page{}, sandbox.Errorf(sandbox.Invalid, "page_size %d is out of range: use 1 to %d", req.PageSize, sandbox.MaxPageSize)
	}
	if req.State != "" {
		state, err := sandbox.ParseState(string(req.State))
		if err != nil {
			return sandbox.Page{}, err
		}
		req.State = state
	}
	before, err := parsePageToken(req.PageToken)
	if err != nil {
		return sandbox.Page{}, err
	}
	limited, cancel := context.WithTimeout(ctx, statusTimeout)
	m.noticeDead(limited)
	cancel()
	records, err := m.Store.Sandboxes(ctx, sandbox.OwnerOf(ctx), req.State, before, size+1)
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
	m.mu.Lock()
	b := m.boxes[rec.ID]
	m.mu.Unlock()
	if b != nil {
		rec.UsedTime = b.record().UsedTime
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
	return 0, sandbox.Errorf(sandbox.Invalid, "page_token %q is not one of ours: use next_page_token of the page before, or none for the first page", sandbox.Quote(token))
}

func (m *Manager) view(r store.Sandbox) sandbox.Sandbox {
	info := m.Engine.Info()
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
