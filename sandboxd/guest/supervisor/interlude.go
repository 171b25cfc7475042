//go:build linux

package supervisor

import (
	"sync"
	"time"
	"unicode/utf8"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// interlude collects what happens to a lane's kernels while no execution runs, so that the next execution reports it.
// Text printed in that time must not look like that execution's output, and every loss must be reported.
type interlude struct {
	mu              sync.Mutex
	late            lateText
	lateBeforeBegun *lateText            // text that was printed before the current execution began; nil if it has not begun
	asOf            time.Time            // if the sandbox was restored and has lost changes: the time when the restored memory was saved
	death           *sandbox.KernelDeath // the last death of a kernel while no execution ran
}

// lateText is text that belongs to no execution.
type lateText struct {
	bytes int64
	end   []byte // the end of the text, at most MaxLateText bytes
}

func (t *lateText) add(bytes int64, text []byte) {
	t.bytes += bytes
	t.end = lastText(append(t.end, lastText(text)...))
}

// print adds text that belongs to no execution.
func (i *interlude) print(p []byte) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.late.add(int64(len(p)), p)
}

// begun separates the text that was printed before an execution from the text that will be printed after it.
func (i *interlude) begun() {
	i.mu.Lock()
	defer i.mu.Unlock()
	lateBeforeBegun := i.late
	i.late, i.lateBeforeBegun = lateText{}, &lateBeforeBegun
}

// lastText returns the last MaxLateText bytes of p, beginning at a whole character. p must be valid UTF-8.
func lastText(p []byte) []byte {
	p = p[max(len(p)-sandbox.MaxLateText, 0):]
	for len(p) > 0 && !utf8.RuneStart(p[0]) { // the cut was inside of a character
		p = p[1:]
	}
	return p
}

// died records that a kernel died while no execution ran.
func (i *interlude) died(d sandbox.KernelDeath) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.death = &d
}

// restored records that the sandbox was restored from memory that was saved at t, so everything after t is lost.
func (i *interlude) restored(t time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asOf = t
}

// take returns everything that was recorded since the last call, or nil if nothing was.
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

// takeLate returns taken, which is the result of take, together with the text that was printed after that call and
// before the execution began. The caller must call it once, after the execution has ended. If the kernel died before
// it began the execution, takeLate adds all text until the death.
func (i *interlude) takeLate(taken *sandbox.Interlude) *sandbox.Interlude {
	i.mu.Lock()
	defer i.mu.Unlock()
	late := i.lateBeforeBegun
	if i.lateBeforeBegun = nil; late == nil {
		late = &lateText{bytes: i.late.bytes, end: i.late.end}
		i.late = lateText{}
	}
	if late.bytes == 0 {
		return taken
	}
	var sum sandbox.Interlude // sum is a copy, because other goroutines read taken
	if taken != nil {
		sum = *taken
	}
	all := lateText{bytes: sum.LateBytes, end: []byte(sum.LateText)}
	all.add(late.bytes, late.end)
	sum.LateBytes, sum.LateText = all.bytes, string(all.end)
	return &sum
}
