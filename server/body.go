package server

import (
	"io"
	"net/http"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
)

// errBodiesBusy is returned for a body that does not fit into the budget for request bodies.
var errBodiesBusy = sandbox.Errorf(sandbox.Unavailable, "too many large requests at once: try again in a moment")

// body is the body of a request. A read fails when the client sends too slowly, or when the body needs more memory than
// the budget has left. The memory stays reserved until release is called.
type body struct {
	io.ReadCloser
	control  *http.ResponseController
	begun    time.Time
	patience time.Duration

	budget  *wire.Budget // the budget for the body's memory; nil: the body is not kept in memory
	owner   sandbox.Owner
	maximum int64 // the maximum number of bytes of the body that are kept in memory; 0: no maximum
	held    int64 // bytes taken from budget
	read    int64 // bytes read from the client
}

// slowestBody is the minimum rate of a body. The read deadline is body.begun plus body.patience, plus one second for each
// slowestBody bytes that were read.
const slowestBody = 16 << 10 // bytes a second

// bodyStep is the minimum number of bytes that a body of unknown size takes from the budget at a time.
const bodyStep = 256 << 10

// begin takes the declared size of the body, but at most b.maximum bytes, from the budget. It reports false if the budget
// has fewer bytes left. It takes all bytes at once: if each of many large bodies held a part of its bytes, none of them might
// get the rest.
func (b *body) begin(declared int64) bool {
	if b.budget == nil || declared <= 0 {
		return true
	}
	if b.maximum > 0 {
		declared = min(declared, b.maximum)
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
		// After the end of the body, net/http keeps reading to detect a disconnect. That read must not time out.
		_ = b.control.SetReadDeadline(time.Time{})
	}
	b.read += int64(n)
	if b.budget != nil && b.read > b.held && (b.maximum == 0 || b.held < b.maximum) {
		more := max(b.read-b.held, bodyStep)
		if b.maximum > 0 {
			more = min(more, b.maximum-b.held)
		}
		if !b.budget.Take(b.owner, more) {
			return n, errBodiesBusy
		}
		b.held += more
	}
	return n, err
}

// release returns the body's bytes to the budget. It must be called when the body is no longer in memory.
func (b *body) release() {
	_ = b.control.SetReadDeadline(time.Time{})
	if b.budget != nil {
		b.budget.Give(b.owner, b.held)
		b.held = 0
	}
}
