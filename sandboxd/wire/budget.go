package wire

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Budget bounds something that requests take and give back, such as bytes of memory. Each owner who is not the operator may
// have three quarters of the total, and all of them together seven eighths: the rest is the operator's. Its methods may be
// called concurrently.
type Budget struct {
	total int64

	mu      sync.Mutex
	used    int64
	named   int64 // of used, by owners who are not the operator
	byOwner map[sandbox.Owner]int64
	freed   chan struct{} // closed and replaced when something is given back
}

// NewBudget returns a budget of total units.
func NewBudget(total int64) *Budget {
	return &Budget{total: total, byOwner: map[sandbox.Owner]int64{}, freed: make(chan struct{})}
}

// share is how much one owner may have.
func (b *Budget) share(owner sandbox.Owner) int64 {
	if owner == sandbox.Operator {
		return b.total
	}
	return b.total - b.total/4
}

// Take takes n units, or none if the owner's share or the total does not have them.
func (b *Budget) Take(owner sandbox.Owner, n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.take(owner, n)
}

func (b *Budget) take(owner sandbox.Owner, n int64) bool {
	if b.used+n > b.total || b.byOwner[owner]+n > b.share(owner) || owner != sandbox.Operator && b.named+n > b.total-b.total/8 {
		return false
	}
	b.used += n
	if owner != sandbox.Operator {
		b.named += n
	}
	b.byOwner[owner] += n
	return true
}

// Give gives back n units that Take or Wait has taken.
func (b *Budget) Give(owner sandbox.Owner, n int64) {
	if n == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	if owner != sandbox.Operator {
		b.named -= n
	}
	if b.byOwner[owner] -= n; b.byOwner[owner] == 0 {
		delete(b.byOwner, owner)
	}
	close(b.freed)
	b.freed = make(chan struct{})
}

// Used returns how much is taken.
func (b *Budget) Used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// Wait takes n units as soon as there are so many. It reports false if patience or ctx ends before.
func (b *Budget) Wait(ctx context.Context, owner sandbox.Owner, n int64, patience time.Duration) bool {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		b.mu.Lock()
		taken, freed := b.take(owner, n), b.freed
		b.mu.Unlock()
		if taken {
			return true
		}
		select {
		case <-freed:
		case <-timeout.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// Answers in memory.
const (
	// AnswerBytes is the default budget of a process for answers.
	AnswerBytes = 512 << 20
	// answerCost is how many bytes of memory a byte of a JSON answer takes: for its text, the decoded values and the text that is sent.
	answerCost = 4
	// SmallAnswer is the size up to which an answer is not counted, so that status, lists and errors
	// get through when the budget is used up.
	SmallAnswer = 64 << 10
	// answerPatience is how long an answer whose sender waits for its reader waits for memory.
	answerPatience = 5 * time.Second
)

// lease is what one request holds of a budget for its answer.
type lease struct {
	budget *Budget
	owner  sandbox.Owner

	mu   sync.Mutex
	held int64
}

type leaseKey struct{}

// WithBudget returns the context of a request whose answers take their memory from b. The caller calls
// release when the answer was sent.
func (b *Budget) WithBudget(ctx context.Context) (_ context.Context, release func()) {
	l := &lease{budget: b, owner: sandbox.OwnerOf(ctx)}
	return context.WithValue(ctx, leaseKey{}, l), func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		b.Give(l.owner, l.held)
		l.held = 0
	}
}

// HasBudget reports whether the answers of ctx's request take their memory from a budget.
func HasBudget(ctx context.Context) bool { return ctx.Value(leaseKey{}) != nil }

// Reserve takes the memory for an answer of size bytes from the budget of ctx, if it has one, and waits up to patience if others
// have it all. A request holds as much as its largest answer needs, until it ends. The error is of kind unavailable.
func Reserve(ctx context.Context, size int64, patience time.Duration) error {
	l, ok := ctx.Value(leaseKey{}).(*lease)
	if !ok || size <= SmallAnswer {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// The largest answers may exceed the budget, and can be sent when there is no other.
	more := min(size*answerCost, l.budget.share(l.owner)) - l.held
	if more <= 0 {
		return nil
	}
	if !l.budget.Wait(ctx, l.owner, more, patience) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return sandbox.Errorf(sandbox.Unavailable, "too many large answers are being sent: all together may take %d MiB of memory. Try again in a moment, or ask for less at once", l.budget.total>>20)
	}
	l.held += more
	return nil
}

// reservingReader reads an answer and reserves memory for what exceeds the size that is reserved already.
type reservingReader struct {
	r              io.Reader
	ctx            context.Context
	read, reserved int64
}

func (r *reservingReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if r.read += int64(n); r.read > r.reserved {
		r.reserved = 2 * r.read
		// Answers that wait while they hold a part could wait for each other.
		if err := Reserve(r.ctx, r.reserved, 0); err != nil {
			return 0, err
		}
	}
	return n, err
}
