package manager

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// Uids of kernels. On engines without snapshots, each sandbox gets a random uid that no other container has;
// because it is random, a uid that was just released is not the next one to be assigned. All sandboxes on an
// engine with snapshots share snapshotUID, because a snapshot's files belong to that uid. That is safe: on
// these engines each sandbox has an operating-system kernel of its own, so uids have no meaning outside of the
// sandbox. The store's unique index on uids exempts snapshotUID.
const (
	firstUID    = 200_000
	lastUID     = 1_200_000
	snapshotUID = firstUID - 1
)

// How long a request waits for capacity, and how often it retries: an execution may be about to end, and its
// sandbox can then be suspended.
const (
	roomPatience = time.Second
	roomLook     = 50 * time.Millisecond
)

// full returns the reason why another sandbox whose memory limit is the parameter memory, in bytes, cannot run
// now, or "" if it can. Sandboxes suspended to disk do not count. Terminated sandboxes count until their
// container is removed. The caller must hold m.mu.
func (m *Manager) full(memory int64) string {
	count := 0
	for r, runs := range m.held {
		if runs {
			count++
			memory += r.Limits.MemoryBytes
		}
	}
	awake := ""
	if m.disk.full {
		awake = "; idle ones can't make room by going to sleep, because saved states take as much disk as they may (--max-disk)"
	}
	if count >= m.MaxSandboxes {
		return fmt.Sprintf("%d sandboxes run already, the most that this daemon has at once (--max-sandboxes)%s", count, awake)
	}
	if most := m.maxMemory(); most > 0 && memory > most {
		return fmt.Sprintf("the memory limits of the sandboxes that run would add up to %d MB, and this daemon allows %d MB in total (--max-memory)%s", memory/sandbox.MiB, most/sandbox.MiB, awake)
	}
	return ""
}

// takeRoom acquires capacity for b to resume. If there is none, it suspends other sandboxes, starting with the
// one that has been idle longest. While it checks the capacity and sets b.room, it holds m.mu, so that two
// sandboxes cannot acquire the same capacity. The caller must hold b.life.
func (m *Manager) takeRoom(ctx context.Context, b *box) error {
	memory := b.record().Limits.MemoryBytes
	for begin := time.Now(); ; {
		m.mu.Lock()
		b.mu.Lock()
		runs := b.room
		b.mu.Unlock()
		full := ""
		if !runs && !m.pauses() {
			full = m.full(memory)
		}
		if full == "" {
			b.mu.Lock()
			b.room = true
			b.mu.Unlock()
		}
		m.mu.Unlock()
		switch {
		case full == "":
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !m.makeRoom(ctx, begin):
			return sandbox.Errorf(sandbox.Limit, "sandbox %s sleeps, and there is no room to wake it: %s, and none of them can go to sleep now. Nothing of it is lost: try again later, or delete a sandbox that is not needed", b.id, full)
		}
	}
}

func (b *box) leaveRoom() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.room = false
}

// makeRoom tries to free capacity and reports whether the caller should retry. It suspends an idle sandbox. If
// there is no idle sandbox, it waits for the duration roomLook, but gives up if IdleSuspend is zero or when
// roomPatience has passed since begin. The caller must not hold m.mu.
func (m *Manager) makeRoom(ctx context.Context, begin time.Time) bool {
	if m.evict(ctx) {
		return true
	}
	if m.IdleSuspend == 0 || time.Since(begin) >= roomPatience {
		return false
	}
	select {
	case <-time.After(roomLook):
		return true
	case <-ctx.Done():
		return false
	}
}

// evict suspends the sandbox that has been idle longest, and reports whether it suspended one. The caller may
// hold the life lock of a box that needs capacity. So evict skips sandboxes whose life lock is held instead of
// waiting for it: the holder could be waiting for capacity itself.
func (m *Manager) evict(ctx context.Context) (done bool) {
	s, ok := engine.As[engine.Suspender](m.Engine)
	if !ok || m.IdleSuspend == 0 || m.pauses() {
		return false
	}
	type candidate struct {
		*box
		since time.Time
	}
	var idle []candidate
	m.mu.Lock()
	for _, b := range m.boxes {
		b.mu.Lock()
		if b.idle(0) {
			idle = append(idle, candidate{b, b.active})
		}
		b.mu.Unlock()
	}
	m.mu.Unlock()
	slices.SortFunc(idle, func(x, y candidate) int { return x.since.Compare(y.since) })
	for _, b := range idle {
		b.tryChange(func() { done = m.suspend(ctx, s, b.box, 0) })
		if done {
			return true
		}
	}
	return false
}

// errShare is the cause of the error for an owner who has reached MaxSandboxesPerOwner. Create does not call
// makeRoom after this error, because suspending sandboxes does not help: suspended sandboxes count too.
var errShare = errors.New("the owner's share is used up")

// share returns an error caused by errShare if the owner has reached MaxSandboxesPerOwner. The operator has no
// such limit. The caller must hold m.mu.
func (m *Manager) share(owner sandbox.Owner) error {
	if m.MaxSandboxesPerOwner == 0 || owner == sandbox.Operator {
		return nil
	}
	count := 0
	for r := range m.held {
		if r.Owner == owner {
			count++
		}
	}
	if count < m.MaxSandboxesPerOwner {
		return nil
	}
	return sandbox.Errorf(sandbox.Limit, "you have %d sandboxes, awake or asleep, the most that one owner may have here (--max-sandboxes-per-owner): delete one that is not needed, or wait until one expires", count).WithCause(errShare)
}

// reserve checks all limits for a new sandbox and sets rec.UID. The caller must hold m.mu, and keep it until it
// has added the sandbox to m.creating: the entry there is what occupies the capacity.
func (m *Manager) reserve(rec *store.Sandbox) error {
	if err := m.share(rec.Owner); err != nil {
		return err
	}
	if full := m.full(rec.Limits.MemoryBytes); full != "" {
		less := ""
		if m.full(sandbox.MinMemoryMB*sandbox.MiB) == "" {
			less = ", or ask for less memory_mb"
		}
		return sandbox.Errorf(sandbox.Limit, "%s: delete a sandbox that is not needed, or wait until one expires%s", full, less)
	}
	uids := map[int]bool{}
	for r := range m.held {
		uids[r.UID] = true
	}
	switch {
	case rec.ForkOf != "":
		return nil // a fork keeps the original's uid, which owns its files
	case m.snapshots():
		rec.UID = snapshotUID
		return nil
	}
	for rec.UID = 0; rec.UID == 0 || uids[rec.UID]; {
		rec.UID = firstUID + rand.IntN(lastUID-firstUID)
	}
	return nil
}

// held iterates over the records of all sandboxes that occupy a uid: running, suspended, being created, and
// terminated with a container. runs reports whether the sandbox counts towards MaxSandboxes and MaxMemory. The
// caller must hold m.mu; held takes box.mu, but does not hold it during yield.
func (m *Manager) held(yield func(r store.Sandbox, runs bool) bool) {
	pauses := m.pauses()
	for _, b := range m.boxes {
		b.mu.Lock()
		rec, runs := b.rec, b.room || pauses
		b.mu.Unlock()
		if !yield(rec, runs) {
			return
		}
	}
	for _, c := range m.creating {
		if !yield(c.rec, true) {
			return
		}
	}
	for _, l := range m.leaving {
		if !yield(l.rec, true) {
			return
		}
	}
}

func (m *Manager) maxMemory() int64 {
	if m.MaxMemory != 0 {
		return m.MaxMemory
	}
	return memoryOvercommit * m.Engine.Info().Memory
}

func (m *Manager) hostCPUs() int {
	if n := m.Engine.Info().CPUs; n > 0 {
		return n
	}
	return runtime.NumCPU()
}

// image returns the image to use for a request, or an error if the requested image is not allowed. An empty
// name selects DefaultImage.
func (m *Manager) image(asked string) (string, error) {
	if asked == "" || asked == m.DefaultImage {
		return m.DefaultImage, nil
	}
	if slices.Contains(m.AllowImages, asked) || slices.Contains(m.AllowImages, "*") {
		return asked, nil
	}
	return "", sandbox.Errorf(sandbox.Invalid, "image %q is not allowed here: leave image out, or have whoever runs Dormouse start it with --allow-image %s", sandbox.Quote(asked), sandbox.Quote(asked))
}
