package manager

import (
	"math/rand/v2"
	"runtime"
	"slices"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// Kernels' uids. A sandbox's own is chosen at random, so that one that was just given back
// is not the next to be given out.
const (
	firstUID = 200_000
	lastUID  = 1_200_000
)

// reserve finds room for a sandbox, with mu held: what has ended takes room until its container
// is gone. It fills in the record's uid.
func (m *Manager) reserve(rec *store.Sandbox) error {
	memory := rec.Limits.MemoryBytes
	uids := map[int]bool{}
	held := 0
	for r := range m.held {
		held++
		memory += r.Limits.MemoryBytes
		uids[r.UID] = true
	}
	if held >= m.MaxSandboxes {
		return sandbox.Errorf(sandbox.Limit, "there are %d sandboxes already, the most that this daemon keeps at once (--max-sandboxes): delete one that is not needed, or wait until one expires", held)
	}
	if most := m.maxMemory(); most > 0 && memory > most {
		return sandbox.Errorf(sandbox.Limit, "the sandboxes' memory limits would add up to %d MB, and this daemon allows %d MB in total (--max-memory): delete a sandbox that is not needed, wait until one expires, or ask for less memory_mb",
			memory/sandbox.MiB, most/sandbox.MiB)
	}
	if rec.ForkOf != "" {
		return nil // its files are its original's user's
	}
	for rec.UID = 0; rec.UID == 0 || uids[rec.UID]; {
		rec.UID = firstUID + rand.IntN(lastUID-firstUID)
	}
	return nil
}

// held yields the records of all that takes room, with mu held.
func (m *Manager) held(yield func(store.Sandbox) bool) {
	for _, b := range m.boxes {
		if !yield(b.record()) {
			return
		}
	}
	for _, c := range m.creating {
		if !yield(c.rec) {
			return
		}
	}
	for _, l := range m.leaving {
		if !yield(l.rec) {
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

// image returns the image to use for one that was asked for.
func (m *Manager) image(asked string) (string, error) {
	if asked == "" || asked == m.DefaultImage {
		return m.DefaultImage, nil
	}
	if slices.Contains(m.AllowImages, asked) || slices.Contains(m.AllowImages, "*") {
		return asked, nil
	}
	return "", sandbox.Errorf(sandbox.Invalid, "image %q is not allowed here: leave image out, or have whoever runs Dormouse start it with --allow-image %s", sandbox.Quote(asked), sandbox.Quote(asked))
}
