package manager

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// How long the engine may take. The first use of an image can be slow.
const (
	createTimeout = 3 * time.Minute
	removeTimeout = time.Minute
)

// creation is a sandbox that is being created.
type creation struct {
	rec    store.Sandbox // the record when the creation began; does not change
	cancel context.CancelFunc
	done   chan struct{} // closed after box and err have been set
	box    *box          // nil if the creation failed; err is the reason
	err    error
}

// Create creates a sandbox and returns when it is running. If ctx ends first, the creation of a request with a
// RequestID continues, and a retry of the request returns its sandbox. Without a RequestID, the creation is
// cancelled and its container removed, because the client does not have the sandbox's id.
func (m *Manager) Create(ctx context.Context, req sandbox.CreateRequest) (sandbox.Sandbox, error) {
	if err := req.Validate(); err != nil {
		return sandbox.Sandbox{}, err
	}
	rec, err := m.newRecord(sandbox.OwnerOf(ctx), req)
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	for {
		first, err := m.createdBefore(ctx, rec)
		if err != nil || first != nil {
			return m.viewOf(first), err
		}
		// Open the engine before the sandbox is recorded. A record means that the engine may have a container,
		// so no record must exist if the engine cannot even be opened.
		if e, ok := m.Engine.(engine.Opener); ok {
			if err := e.Open(ctx); err != nil {
				return sandbox.Sandbox{}, err
			}
		}
		if req.ForkOf != "" {
			if err := m.asOriginal(ctx, &rec, req.ForkOf); err != nil {
				return sandbox.Sandbox{}, err
			}
		}
		c, err := m.begin(rec)
		for start := time.Now(); sandbox.KindOf(err) == sandbox.Limit && !errors.Is(err, errShare) && m.makeRoom(ctx, start); {
			c, err = m.begin(rec)
		}
		if err != nil {
			return sandbox.Sandbox{}, err
		}
		select {
		case <-c.done:
		case <-ctx.Done():
			if rec.RequestID == "" {
				c.cancel()
			}
			return sandbox.Sandbox{}, ctx.Err()
		}
		if errors.Is(c.err, store.ErrRequestTaken) {
			continue // another request with this request id was recorded first, so return its sandbox
		}
		if c.err != nil {
			return sandbox.Sandbox{}, c.err
		}
		return m.view(c.box.record()), nil
	}
}

func (m *Manager) newRecord(owner sandbox.Owner, req sandbox.CreateRequest) (store.Sandbox, error) {
	image, err := m.image(req.Image)
	if err != nil {
		return store.Sandbox{}, err
	}
	limits, err := m.Limits.WithRequest(req, m.hostCPUs(), m.Engine.Info().Memory)
	if err != nil {
		return store.Sandbox{}, err
	}
	if req.Language == "" {
		req.Language = sandbox.Python
	}
	ttl := time.Duration(req.TTL)
	if ttl == 0 {
		ttl = m.DefaultTTL
	}
	now := m.now()
	return store.Sandbox{
		ID: sandbox.NewID(), Owner: owner, DisplayName: req.DisplayName, State: sandbox.Provisioning, Language: req.Language,
		Image: image, Limits: limits, Container: true, RequestID: req.RequestID, RequestHash: hashOf(req),
		CreateTime: now, ExpireTime: now.Add(ttl), UsedTime: now,
	}, nil
}

// createdBefore returns the sandbox that an earlier request of the same owner with the same request id created.
// It waits if that sandbox is still being created. It returns nil if there was no such request.
func (m *Manager) createdBefore(ctx context.Context, rec store.Sandbox) (*store.Sandbox, error) {
	if rec.RequestID == "" {
		return nil, nil
	}
	if c := m.creatingFor(rec.Owner, rec.RequestID); c != nil {
		select {
		case <-c.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if c.err != nil && !errors.Is(c.err, store.ErrRequestTaken) {
			return nil, c.err
		}
	}
	first, err := m.Store.SandboxByRequest(ctx, rec.Owner, rec.RequestID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err == nil && !bytes.Equal(first.RequestHash, rec.RequestHash) {
		err = sandbox.Errorf(sandbox.Invalid, "request_id %q was used for another sandbox, %s: use a new one", rec.RequestID, first.ID)
	}
	if err != nil {
		return nil, err
	}
	return &first, nil
}

func (m *Manager) creatingFor(owner sandbox.Owner, requestID string) *creation {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.creating {
		if c.rec.Owner == owner && c.rec.RequestID == requestID {
			return c
		}
	}
	return nil
}

// begin reserves capacity for a sandbox and starts to create it in the background.
func (m *Manager) begin(rec store.Sandbox) (*creation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, errStopping()
	}
	if err := m.reserve(&rec); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(m.ctx, createTimeout)
	c := &creation{rec: rec, cancel: cancel, done: make(chan struct{})}
	m.creating[rec.ID] = c
	m.work.Go(func() {
		defer cancel()
		m.provision(ctx, c)
	})
	return c, nil
}

// provision records the sandbox, starts its container and marks it as running. It closes c.done. On failure it
// removes the container and the record.
func (m *Manager) provision(ctx context.Context, c *creation) {
	log := m.Logger.With("sandbox", c.rec.ID)
	start := time.Now()
	c.err = m.Store.AddSandbox(c.rec)
	switch {
	case errors.Is(c.err, store.ErrRequestTaken):
		m.settle(c, nil)
		return
	case c.err != nil:
		c.err = notRecorded(c.err)
		m.settle(c, nil)
		return
	}
	var b *box
	if c.rec.ForkOf != "" {
		b, c.err = m.fork(ctx, c.rec)
	} else {
		b, c.err = m.launch(ctx, c.rec)
	}
	switch {
	case ctx.Err() == nil:
	case m.ctx.Err() != nil:
		c.err = errStopping()
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		c.err = sandbox.Errorf(sandbox.Unavailable, "the %s engine took longer than %s to make the sandbox: try again", m.Engine.Info().Name, createTimeout).WithCause(c.err)
	default:
		c.err = sandbox.Errorf(sandbox.NotFound, "sandbox %s was deleted, or its request given up, while it was being created", c.rec.ID).WithCause(c.err)
	}
	if c.err == nil {
		if err := m.Store.SetRunning(c.rec.ID); err != nil {
			c.err = notRecorded(err)
		}
	}
	if c.err != nil {
		if b != nil {
			b.close()
		}
		log.Warn("a sandbox could not be made", "error", c.err)
		m.settle(c, m.undo(c.rec))
		return
	}
	c.box = b
	m.settle(c, nil)
	m.expiryMoved()
	log.Info("a sandbox runs", "image", c.rec.Image, "uid", c.rec.UID, "expires", c.rec.ExpireTime, "took", time.Since(start))
}

// settle ends a creation: it moves the sandbox to m.boxes if it runs, and to m.leaving if left is not nil. It
// must be called once, after c.box and c.err have been set.
func (m *Manager) settle(c *creation, left *remains) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.creating, c.rec.ID)
	if c.box != nil {
		m.boxes[c.rec.ID] = c.box
	}
	if left != nil {
		m.leaving[c.rec.ID] = left
	}
	close(c.done)
}

// undo removes the container and the record of a sandbox that could not be created, and returns nil. If that
// fails, it marks the record as terminated and returns the remains, which reconcile removes later.
func (m *Manager) undo(rec store.Sandbox) *remains {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(m.ctx), removeTimeout)
	defer cancel()
	err := m.Engine.Remove(ctx, rec.ID)
	if err == nil {
		if err = m.Store.RemoveSandbox(rec.ID); err == nil {
			return nil
		}
	}
	m.Logger.Warn("what is left of a sandbox goes later", "sandbox", rec.ID, "error", err)
	end := store.End{Cause: store.CauseFailed, Reason: "it could not be made", Time: m.now()}
	if err := m.Store.EndSandbox(rec.ID, end); err != nil {
		m.Logger.Error("a record was not written", "sandbox", rec.ID, "error", err)
	}
	rec.State, rec.Cause, rec.Reason, rec.EndTime = sandbox.Terminated, end.Cause, end.Reason, end.Time
	return &remains{rec: rec}
}

// hashOf returns a hash of the request. Callers compare hashes to detect that a request id is used again for a
// different request.
func hashOf(request any) []byte {
	data, err := json.Marshal(request)
	if err != nil {
		panic(err) // requests are plain structs
	}
	sum := sha256.Sum256(data)
	return sum[:]
}
