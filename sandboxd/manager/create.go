package manager

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/capacity"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/lifecycle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// How long the engine may take to create or to remove a container. The first use of an image can be slow.
const (
	createTimeout = 3 * time.Minute
	removeTimeout = time.Minute
)

// creation is the process of creating a sandbox.
type creation struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when the sandbox is running or the creation has failed
	err    error         // why the creation failed, or nil; set before done is closed
}

// isUnderWay reports whether the creation has not ended yet. c is nil if an earlier daemon created the sandbox.
func (c *creation) isUnderWay() bool {
	if c == nil {
		return false
	}
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// Create creates a sandbox and returns when it is running. If ctx ends first, the creation of a request with a
// RequestID continues, and a retry of the request returns its sandbox. Without a RequestID, the creation is
// cancelled and its container removed, because the client does not have the sandbox's id. The caller must have
// validated req. Create makes only the checks that need the configuration or the engine.
func (m *Manager) Create(ctx context.Context, req sandbox.CreateRequest) (sandbox.Sandbox, error) {
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
		if e, ok := m.engine.(engine.Opener); ok {
			if err := e.Open(ctx); err != nil {
				return sandbox.Sandbox{}, err
			}
		}
		if req.ForkOf != "" {
			if err := m.inheritFromOriginal(ctx, &rec, req.ForkOf); err != nil {
				return sandbox.Sandbox{}, err
			}
		}
		var made *liveSandbox
		err = m.withCapacity(ctx, func() (err error) {
			made, err = m.begin(rec)
			return err
		})
		if err != nil {
			return sandbox.Sandbox{}, err
		}
		c := made.creation
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
		return m.view(made.record()), nil
	}
}

func (m *Manager) newRecord(owner sandbox.Owner, req sandbox.CreateRequest) (store.Sandbox, error) {
	image, err := m.image(req.Image)
	if err != nil {
		return store.Sandbox{}, err
	}
	limits, err := sandbox.DefaultLimits().WithRequest(req, m.hostCPUs(), m.engine.Info().Memory)
	if err != nil {
		return store.Sandbox{}, err
	}
	if req.Language == "" {
		req.Language = sandbox.Python
	}
	ttl := time.Duration(req.TTL)
	if ttl == 0 {
		ttl = m.cfg.DefaultTTL
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
	if s := m.creatingFor(rec.Owner, rec.RequestID); s != nil {
		select {
		case <-s.creation.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if err := s.creation.err; err != nil && !errors.Is(err, store.ErrRequestTaken) {
			return nil, err
		}
	}
	first, err := m.store.SandboxByRequest(ctx, rec.Owner, rec.RequestID)
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

// creatingFor returns the sandbox that is being created for a request, or nil.
func (m *Manager) creatingFor(owner sandbox.Owner, requestID string) *liveSandbox {
	found := m.registry.list(func(s *liveSandbox) bool {
		return s.creation.isUnderWay() && s.owner == owner && s.record().RequestID == requestID
	})
	if len(found) == 0 {
		return nil
	}
	return found[0]
}

// begin reserves capacity for a sandbox and starts to create it in the background.
func (m *Manager) begin(rec store.Sandbox) (*liveSandbox, error) {
	if rec.ForkOf == "" && m.hasSnapshots() {
		rec.UID = capacity.SharedUID
	}
	uid, err := m.capacity.Reserve(rec.ID, useOf(rec), m.limits())
	if err != nil {
		return nil, err
	}
	rec.UID = uid
	ctx, cancel := context.WithTimeout(m.ctx, createTimeout)
	s := m.newSandbox(rec)
	s.creation = &creation{cancel: cancel, done: make(chan struct{})}
	t, _ := s.life.TryBegin() // succeeds, because no other goroutine has the sandbox yet
	m.registry.add(s)
	if !m.spawn(func() {
		defer cancel()
		defer close(s.creation.done)
		s.creation.err = s.provision(ctx, t)
		t.End()
	}) {
		cancel()
		m.discard(s)
		s.creation.err = sandbox.ErrStopping
		close(s.creation.done)
		t.End()
		return nil, s.creation.err
	}
	return s, nil
}

// provision records the sandbox, starts its container and marks it as running. On failure it removes the
// container and the record.
func (s *liveSandbox) provision(ctx context.Context, t *lifecycle.Transition) error {
	start := time.Now()
	if err := s.m.store.AddSandbox(s.record()); err != nil {
		s.m.discard(s)
		if errors.Is(err, store.ErrRequestTaken) {
			return err
		}
		return notRecorded(err)
	}
	if err := s.startContainer(ctx); err != nil {
		s.log.Warn("a sandbox could not be created", "error", err)
		s.undoCreation(t)
		return err
	}
	t.To(lifecycle.Running)
	s.m.expiryMoved()
	rec := s.record()
	s.log.Info("a sandbox was created", "image", rec.Image, "uid", rec.UID, "expires", rec.ExpireTime, "took", time.Since(start))
	return nil
}

// startContainer starts the container of a sandbox, prepares its guest and records that the sandbox is running.
func (s *liveSandbox) startContainer(ctx context.Context) error {
	var err error
	if s.record().ForkOf != "" {
		err = s.startFromFork(ctx)
	} else {
		err = s.start(ctx)
	}
	switch {
	case ctx.Err() == nil:
	case s.m.ctx.Err() != nil:
		return sandbox.ErrStopping
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return sandbox.Errorf(sandbox.Unavailable, "the %s engine took longer than %s to create the sandbox: try again", s.m.engine.Info().Name, createTimeout).WithCause(err)
	default:
		return sandbox.Errorf(sandbox.NotFound, "sandbox %s was deleted, or its request cancelled, while it was being created", s.id).WithCause(err)
	}
	if err != nil {
		return err
	}
	if err := s.m.store.SetRunning(s.id); err != nil {
		return notRecorded(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rec.State = sandbox.Running
	return nil
}

// undoCreation removes the container and the record of a sandbox that could not be created. If that fails, it marks
// the sandbox as terminated, and the next sweep removes the container.
func (s *liveSandbox) undoCreation(t *lifecycle.Transition) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.m.ctx), removeTimeout)
	defer cancel()
	err := s.m.engine.Remove(ctx, s.id)
	if err == nil {
		err = s.m.store.RemoveSandbox(s.id)
	}
	if err == nil {
		s.m.discard(s)
		return
	}
	s.log.Warn("the rest of a failed sandbox could not be removed; the next sweep tries again", "error", err)
	if err := s.terminate(t, store.CauseFailed, "it could not be created"); err != nil {
		s.log.Error("the end of a sandbox could not be recorded; the next sweep tries again", "error", err)
	}
}

// discard removes a sandbox that has neither a container nor a record.
func (m *Manager) discard(s *liveSandbox) {
	s.close()
	m.registry.remove(s.id)
	m.capacity.Remove(s.id)
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
