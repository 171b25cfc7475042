package wire

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Budget limits how much of a resource, such as bytes of memory, requests hold at once. Each owner other than the
// operator may hold three quarters of the total, and all owners other than the operator together may hold seven eighths:
// the rest is reserved for the operator. Its methods may be called concurrently.
type Budget struct {
	total int64

	mu          sync.Mutex
	used        int64
	usedByNamed int64 // the part of used that owners other than the operator hold
	byOwner     map[sandbox.Owner]int64
	freed       chan struct{} // closed and replaced when units are given back
}

// NewBudget returns a budget of total units.
func NewBudget(total int64) *Budget {
	return &Budget{total: total, byOwner: map[sandbox.Owner]int64{}, freed: make(chan struct{})}
}

// share returns how many units the owner may hold.
func (b *Budget) share(owner sandbox.Owner) int64 {
	if owner == sandbox.Operator {
		return b.total
	}
	return b.total - b.total/4
}

// Take takes n units for the owner. It reports false, and takes none, if this would exceed the total, the owner's share, or
// the limit for all owners other than the operator together.
func (b *Budget) Take(owner sandbox.Owner, n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.take(owner, n)
}

// take is Take for callers that hold b.mu.
func (b *Budget) take(owner sandbox.Owner, n int64) bool {
	if b.used+n > b.total || b.byOwner[owner]+n > b.share(owner) || owner != sandbox.Operator && b.usedByNamed+n > b.total-b.total/8 {
		return false
	}
	b.used += n
	if owner != sandbox.Operator {
		b.usedByNamed += n
	}
	b.byOwner[owner] += n
	return true
}

// Give gives back n units that Take or Wait took for the owner.
func (b *Budget) Give(owner sandbox.Owner, n int64) {
	if n == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	if owner != sandbox.Operator {
		b.usedByNamed -= n
	}
	if b.byOwner[owner] -= n; b.byOwner[owner] == 0 {
		delete(b.byOwner, owner)
	}
	close(b.freed)
	b.freed = make(chan struct{})
}

// Used returns how many units are taken.
func (b *Budget) Used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// Wait calls Take until it succeeds, but for no longer than patience. It reports false, and takes no units, if the time has
// passed or ctx has ended before that.
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

// Limits for the memory of answers.
const (
	// AnswerBytes is a process's default budget for answers.
	AnswerBytes = 512 << 20
	// answerCost is how many bytes of memory one byte of a JSON answer needs: for the text that this process reads, for the
	// decoded values, and for the text that it sends.
	answerCost = 4
	// SmallAnswer is the size up to which an answer is not counted, so that status, lists and errors
	// can be sent when the budget is used up.
	SmallAnswer = 64 << 10
	// answerPatience is how long Decode waits for memory. It is short, because the sender is blocked during the wait.
	answerPatience = 5 * time.Second
)

// lease is the part of a budget that one request holds for its answer.
type lease struct {
	budget *Budget
	owner  sandbox.Owner

	mu   sync.Mutex
	held int64
}

type leaseKey struct{}

// WithBudget returns a context for a request whose answers take their memory from b. The caller must call release after
// it has sent the answer.
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

// Reserve takes the memory for an answer of size bytes from the budget of ctx. It does nothing if ctx has no budget. If too
// little memory is left, it waits, but for no longer than patience. A request holds as much memory as its largest answer
// needs, until the function release of [Budget.WithBudget] is called. The error is of kind unavailable, or the error of ctx.
func Reserve(ctx context.Context, size int64, patience time.Duration) error {
	l, ok := ctx.Value(leaseKey{}).(*lease)
	if !ok || size <= SmallAnswer {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// An answer that needs more than the owner's share takes only the whole share, so that it can be sent while no other
	// answer is being sent.
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

// reservingReader reads an answer and reserves more memory when the answer exceeds the size that is reserved already.
type reservingReader struct {
	r              io.Reader
	ctx            context.Context
	read, reserved int64
}

func (r *reservingReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if r.read += int64(n); r.read > r.reserved {
		r.reserved = 2 * r.read
		// Reserve must not wait here: answers that each hold a part of the budget would wait for each other.
		if err := Reserve(r.ctx, r.reserved, 0); err != nil {
			return 0, err
		}
	}
	return n, err
}
