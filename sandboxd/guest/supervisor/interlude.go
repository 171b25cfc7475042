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
	mu     sync.Mutex
	late   lateText
	sealed *lateText // text that was printed before the current execution began; nil if it has not begun
	asOf   time.Time
	death  *sandbox.KernelDeath
}

// lateText is text that belongs to no execution.
type lateText struct {
	bytes int64
	end   []byte // the last part of the text
}

func (t *lateText) add(bytes int64, text []byte) {
	t.bytes += bytes
	t.end = lastText(append(t.end, lastText(text)...))
}

// print takes text that no execution printed.
func (i *interlude) print(p []byte) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.late.add(int64(len(p)), p)
}

// begun separates the text that was printed before an execution from the text that will be printed after it.
func (i *interlude) begun() {
	i.mu.Lock()
	defer i.mu.Unlock()
	sealed := i.late
	i.late, i.sealed = lateText{}, &sealed
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
	if i.late.bytes == 0 && i.asOf.IsZero() && i.death == nil {
		return nil
	}
	taken := &sandbox.Interlude{LateBytes: i.late.bytes, LateText: string(i.late.end), AsOf: i.asOf, Death: i.death}
	i.late, i.asOf, i.death = lateText{}, time.Time{}, nil
	return taken
}

// takeLate returns the interlude taken, which take has returned, with the text that was printed after that call and before the execution
// began. The caller must call it once, after the execution has ended. If the kernel died before it began the execution, takeLate adds all
// text until the death.
func (i *interlude) takeLate(taken *sandbox.Interlude) *sandbox.Interlude {
	i.mu.Lock()
	defer i.mu.Unlock()
	late := i.sealed
	if i.sealed = nil; late == nil {
		late = &lateText{bytes: i.late.bytes, end: i.late.end}
		i.late = lateText{}
	}
	if late.bytes == 0 {
		return taken
	}
	var sum sandbox.Interlude // a new one: others read the old one
	if taken != nil {
		sum = *taken
	}
	all := lateText{bytes: sum.LateBytes, end: []byte(sum.LateText)}
	all.add(late.bytes, late.end)
	sum.LateBytes, sum.LateText = all.bytes, string(all.end)
	return &sum
}
