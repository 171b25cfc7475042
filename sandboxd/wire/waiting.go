package wire

import "context"

// ShortWait is the longest wait, in seconds, for which a request keeps the slot of a request that works.
const ShortWait = 1.0

type waitingKey struct{}

// WithWaiting returns the context of a request whose slot exchange exchanges for a slot of requests that wait. exchange
// reports false if there is none. It may be called more than once.
func WithWaiting(ctx context.Context, exchange func() bool) context.Context {
	return context.WithValue(ctx, waitingKey{}, exchange)
}

// WaitAllowed returns how many of the seconds the request of ctx may wait for an execution. A long wait takes a slot of requests that
// wait, so that it takes none from requests that work; if there is none, [ShortWait] is allowed.
func WaitAllowed(ctx context.Context, seconds float64) float64 {
	exchange, ok := ctx.Value(waitingKey{}).(func() bool)
	if !ok || seconds <= ShortWait || exchange() {
		return seconds
	}
	return ShortWait
}
