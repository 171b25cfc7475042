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

// statusTimeout is how long a look at a sandbox waits for its guest.
const statusTimeout = 3 * time.Second

// Get returns a sandbox, with what its guest says of it if it runs and answers; one that sleeps is left
// asleep. One that has
// expired or was lost is returned too, with the reason, as long as its record is kept; one
// that was deleted is not there.
func (m *Manager) Get(ctx context.Context, name string) (sandbox.Sandbox, error) {
	b, c, err := m.named(ctx, name)
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	if b != nil {
		var st guest.Status
		release, awake := b.holdAwake()
		if !awake && b.record().State == sandbox.Running { // its state is being saved: that takes a moment
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

// look is what a guest said last of its sandbox.
type look struct {
	mu     sync.Mutex
	began  time.Time
	status guest.Status
	err    error
}

// status asks a guest that is held awake what its sandbox uses and runs. Of many who ask at once, one goes, and the answer
// is for all who asked before it went: nobody gets one that is older than the question. They share it, so
// nobody changes it.
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
		l.began = time.Time{} // the next one asks for itself
	}
	return l.status, l.err
}

// List returns a page of the sandboxes that ctx's owner sees, newest first. A page token stays good while sandboxes come and go.
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

// newest adds to a record what is not on disk yet.
func (m *Manager) newest(rec store.Sandbox) store.Sandbox {
	m.mu.Lock()
	b := m.boxes[rec.ID]
	m.mu.Unlock()
	if b != nil {
		rec.UsedTime = b.record().UsedTime
	}
	return rec
}

// pageToken names the record that a page ended with.
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

// viewOf is view of a record that may be nil.
func (m *Manager) viewOf(r *store.Sandbox) sandbox.Sandbox {
	if r == nil {
		return sandbox.Sandbox{}
	}
	return m.view(m.newest(*r))
}
