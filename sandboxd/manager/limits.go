package manager

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/capacity"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// A request that needs capacity tries again every capacityInterval, for up to capacityPatience. In that time an
// execution or a checkpoint may end, and its sandbox can then be suspended.
const (
	capacityPatience = time.Second
	capacityInterval = 50 * time.Millisecond
)

// limits returns the limits of the daemon. Some depend on the engine.
func (m *Manager) limits() capacity.Limits {
	memory := m.cfg.MaxMemory
	if memory == 0 {
		memory = memoryOvercommit * m.engine.Info().Memory
	}
	return capacity.Limits{
		Sandboxes: m.cfg.MaxSandboxes, Memory: memory, PerOwner: m.cfg.MaxSandboxesPerOwner,
		Paused: m.pauses(), DiskFull: m.disk.isFull(),
	}
}

// pauses reports whether the engine suspends sandboxes only by pausing them. A paused sandbox keeps its memory.
func (m *Manager) pauses() bool { return m.engine.Info().Suspend == engine.Paused }

// useOf returns the capacity that the sandbox of a record uses.
func useOf(rec store.Sandbox) capacity.Use {
	return capacity.Use{Owner: rec.Owner, Memory: rec.Limits.MemoryBytes, UID: rec.UID}
}

// withCapacity calls try, and calls it again while it returns an error of kind limit, which means that it needs
// capacity. Before each further call, withCapacity suspends the sandbox that has been idle longest. If it cannot
// suspend one, it waits for capacityInterval, and it returns the error once capacityPatience has passed since the
// first call. If IdleSuspend is zero, it returns the error without waiting. It also returns an error caused by
// capacity.ErrQuota without another call.
func (m *Manager) withCapacity(ctx context.Context, try func() error) error {
	for begin := time.Now(); ; {
		err := try()
		if sandbox.KindOf(err) != sandbox.Limit || errors.Is(err, capacity.ErrQuota) {
			return err
		}
		if m.suspendOne() {
			continue
		}
		if m.cfg.IdleSuspend == 0 || time.Since(begin) >= capacityPatience {
			return err
		}
		select {
		case <-time.After(capacityInterval):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// suspendOne suspends the sandbox that has been idle longest, and reports whether it suspended one. The caller
// may hold the Transition of a sandbox that needs capacity. So suspendOne skips sandboxes whose Transition is
// held instead of waiting for it: the holder could be waiting for capacity itself. The suspend continues if the
// request that needs the capacity is cancelled.
func (m *Manager) suspendOne() bool {
	suspender, ok := engine.As[engine.Suspender](m.engine)
	if !ok || m.cfg.IdleSuspend == 0 || m.pauses() {
		return false
	}
	type candidate struct {
		*liveSandbox
		since time.Time
	}
	var idle []candidate
	for _, s := range m.registry.list() {
		if since, ok := s.life.IdleSince(); ok && s.guestHasExpiry() {
			idle = append(idle, candidate{s, since})
		}
	}
	slices.SortFunc(idle, func(x, y candidate) int { return x.since.Compare(y.since) })
	for _, s := range idle {
		t, ok := s.life.TryBegin()
		if !ok {
			continue
		}
		done := s.suspend(m.ctx, t, suspender, 0)
		t.End()
		if done {
			return true
		}
	}
	return false
}

// acquireCapacity counts the sandbox as running before it is resumed. If the limits do not allow that, it suspends
// other sandboxes.
func (s *liveSandbox) acquireCapacity(ctx context.Context) error {
	return s.m.withCapacity(ctx, func() error {
		if reason := s.m.capacity.Resume(s.id, s.m.limits()); reason != "" {
			return sandbox.Errorf(sandbox.Limit, "sandbox %s is suspended and cannot be resumed now: %s, and none of them can be suspended now. Nothing of it is lost: try again later, or delete a sandbox that is not needed", s.id, reason)
		}
		return nil
	})
}

func (m *Manager) hostCPUs() int {
	if n := m.engine.Info().CPUs; n > 0 {
		return n
	}
	return runtime.NumCPU()
}

// image returns the image to use for a request, or an error if the requested image is not allowed. An empty
// name selects DefaultImage.
func (m *Manager) image(requested string) (string, error) {
	if requested == "" || requested == m.cfg.DefaultImage {
		return m.cfg.DefaultImage, nil
	}
	if slices.Contains(m.cfg.AllowImages, requested) || slices.Contains(m.cfg.AllowImages, "*") {
		return requested, nil
	}
	return "", sandbox.Errorf(sandbox.Invalid, "image %q is not allowed here: leave image out, or ask the user to start Dormouse with --allow-image %s", sandbox.Quote(requested), sandbox.Quote(requested))
}
