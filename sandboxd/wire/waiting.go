package wire

import "context"

// ShortWait is the longest wait, in seconds, for which a request keeps its slot among the working requests.
const ShortWait = 1.0

type waitingKey struct{}

// WithWaiting returns a context for a request that holds a slot among the working requests. exchange exchanges that slot for one among the
// waiting requests, and reports false if none is free. It may be called more than once.
func WithWaiting(ctx context.Context, exchange func() bool) context.Context {
	return context.WithValue(ctx, waitingKey{}, exchange)
}

// WaitAllowed returns how many seconds, at most the given ones, the request of ctx may wait for an execution. For a long wait it exchanges
// the request's slot for one among the waiting requests, so that others can work; if none is free, it returns [ShortWait].
func WaitAllowed(ctx context.Context, seconds float64) float64 {
	exchange, ok := ctx.Value(waitingKey{}).(func() bool)
	if !ok || seconds <= ShortWait || exchange() {
		return seconds
	}
	return ShortWait
}
