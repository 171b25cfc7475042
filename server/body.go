package server

import (
	"io"
	"net/http"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
)

// errBodiesBusy is what a body is told that the budget has no room for.
var errBodiesBusy = sandbox.Errorf(sandbox.Unavailable, "too many large requests at once: try again in a moment")

// body is a request's body that must keep coming, and whose bytes are counted while
// they are needed.
type body struct {
	io.ReadCloser
	control  *http.ResponseController
	begun    time.Time
	patience time.Duration

	budget *wire.Budget // memory for the body; nil: the body is not kept in memory
	owner  sandbox.Owner
	most   int64 // how many bytes of the body are kept in memory at most; 0: all
	held   int64
	read   int64
}

// slowestBody is the rate at which a body may trickle once its patience is over.
const slowestBody = 16 << 10 // bytes a second

// bodyStep is how many bytes a body of unknown size takes from the budget at a time.
const bodyStep = 256 << 10

// begin takes a declared size at once, so that of many large bodies some get through.
func (b *body) begin(declared int64) bool {
	if b.budget == nil || declared <= 0 {
		return true
	}
	if b.most > 0 {
		declared = min(declared, b.most)
	}
	if !b.budget.Take(b.owner, declared) {
		return false
	}
	b.held = declared
	return true
}

func (b *body) Read(p []byte) (int, error) {
	deadline := b.begun.Add(b.patience + time.Duration(b.read/slowestBody)*time.Second)
	_ = b.control.SetReadDeadline(deadline)
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		// net/http goes on reading to see whether the client is still there.
		_ = b.control.SetReadDeadline(time.Time{})
	}
	b.read += int64(n)
	if b.budget != nil && b.read > b.held && (b.most == 0 || b.held < b.most) {
		more := max(b.read-b.held, bodyStep)
		if b.most > 0 {
			more = min(more, b.most-b.held)
		}
		if !b.budget.Take(b.owner, more) {
			return n, errBodiesBusy
		}
		b.held += more
	}
	return n, err
}

// release gives back what the body held. Nobody needs its bytes any more.
func (b *body) release() {
	_ = b.control.SetReadDeadline(time.Time{})
	if b.budget != nil {
		b.budget.Give(b.owner, b.held)
		b.held = 0
	}
}
