package wire

import "context"

// ShortWait is the longest wait, in seconds, for which a request keeps its slot among the working requests.
const ShortWait = 1.0

type waitingKey struct{}

// slotExchanges contains the functions that were passed to WithWaiting.
type slotExchanges struct {
	wait func() bool
	work func(context.Context) bool
}

// WithWaiting returns a context for a request that holds a slot among the working requests. The parameter wait is a function
// that exchanges that slot for a slot among the waiting requests, and reports false if no such slot is free. The parameter
// work is a function that exchanges the slot back, and reports false if no slot among the working requests becomes free in
// time. Both may be called more than once.
func WithWaiting(ctx context.Context, wait func() bool, work func(context.Context) bool) context.Context {
	return context.WithValue(ctx, waitingKey{}, slotExchanges{wait, work})
}

// WaitAllowed returns how many of the given seconds the request of ctx may wait for an execution. For a wait longer than
// [ShortWait], it exchanges the request's slot for a slot among the waiting requests, so that other requests can work. If
// no such slot is free, it returns [ShortWait].
func WaitAllowed(ctx context.Context, seconds float64) float64 {
	x, ok := ctx.Value(waitingKey{}).(slotExchanges)
	if !ok || seconds <= ShortWait || x.wait() {
		return seconds
	}
	return ShortWait
}

// WorkAllowed reports whether the request of ctx may work after a wait. If [WaitAllowed] has exchanged the request's
// slot, WorkAllowed waits for a slot among the working requests. A request that only sends its answer after a wait need not
// call WorkAllowed, because a budget limits the memory of answers. A request that does other work must call it.
func WorkAllowed(ctx context.Context) bool {
	x, ok := ctx.Value(waitingKey{}).(slotExchanges)
	return !ok || x.work(ctx)
}
