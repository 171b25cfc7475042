//go:build linux

package supervisor

import (
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// interlude gathers what happens to a lane's kernels while nothing runs, for the next execution to tell: what is
// printed then must not pass for that execution's output, nor may a loss go unsaid.
type interlude struct {
	mu    sync.Mutex
	bytes int64
	text  []byte // the end of what was printed
	asOf  time.Time
	death *sandbox.KernelDeath
}

// print takes text that no execution printed.
func (i *interlude) print(p []byte) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.bytes += int64(len(p))
	i.text = lastText(append(i.text, lastText(p)...))
}

func lastText(p []byte) []byte {
	if over := len(p) - sandbox.MaxLateText; over > 0 {
		return p[charEnd(p, over):]
	}
	return p
}

// died says that a kernel died while nothing ran.
func (i *interlude) died(d sandbox.KernelDeath) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.death = &d
}

// restored says that what came after t is lost.
func (i *interlude) restored(t time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asOf = t
}

// take returns what has happened since the last time, or nil.
func (i *interlude) take() *sandbox.Interlude {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.bytes == 0 && i.asOf.IsZero() && i.death == nil {
		return nil
	}
	taken := &sandbox.Interlude{LateBytes: i.bytes, LateText: string(i.text), AsOf: i.asOf, Death: i.death}
	i.bytes, i.text, i.asOf, i.death = 0, nil, time.Time{}, nil
	return taken
}

// takeLate adds what was printed since take to what that returned. A kernel tells of it a moment later, but before
// anything of the execution.
func (i *interlude) takeLate(taken *sandbox.Interlude) *sandbox.Interlude {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.bytes == 0 {
		return taken
	}
	var sum sandbox.Interlude // a new one: others read the old one
	if taken != nil {
		sum = *taken
	}
	sum.LateBytes += i.bytes
	sum.LateText = string(lastText(append([]byte(sum.LateText), i.text...)))
	i.bytes, i.text = 0, nil
	return &sum
}
