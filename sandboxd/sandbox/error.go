package sandbox

import (
	"errors"
	"fmt"
	"strings"
)

// Kind is the category of an error. Each protocol has one table that maps kinds, for example to HTTP statuses.
type Kind string

// The kinds of errors. Clients rely on this set, so it has no others. An error that is not an [Error] is internal: its
// text is logged and never sent to a client.
const (
	Invalid     Kind = "invalid"     // this request can never succeed without a change
	NotFound    Kind = "not_found"   // the named thing does not exist, was deleted, or belongs to another owner
	Expired     Kind = "expired"     // the sandbox existed, but its TTL has passed or it was lost
	Busy        Kind = "busy"        // a retry can succeed later
	Limit       Kind = "limit"       // a documented limit was reached
	Unavailable Kind = "unavailable" // a required component or resource, such as the engine, is not available now
	Internal    Kind = "internal"
)

// Error is an error whose message is shown to the person or model that uses the client. The message states what
// happened, why, and what to do next. It never contains a path of the host.
type Error struct {
	Kind    Kind   `json:"kind"`
	Message string `json:"message"`

	cause error
}

// Errorf returns an [Error] with a formatted message. The error that a %w verb wraps becomes its cause, for errors.Is
// and for the log. The message contains the text of that error, so the caller must wrap only errors that clients may
// see. All other errors must be passed to [Error.WithCause].
func Errorf(kind Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Message: err.Error(), cause: errors.Unwrap(err)}
}

// ErrStopping is the error of a call that is not served, or of a wait that is ended early, because the daemon is stopping.
var ErrStopping error = Errorf(Unavailable, "the Dormouse daemon is stopping: try again in a moment. Executions that have started continue")

// WithCause sets the cause of e and returns e. The cause is logged, but clients do not see it.
func (e *Error) WithCause(err error) *Error {
	e.cause = err
	return e
}

func (e *Error) Error() string { return e.Message }

func (e *Error) Unwrap() error { return e.cause }

// Details returns the text of err for the log. It appends the causes of each [Error] in err's tree unless the text
// contains them already.
func Details(err error) string {
	text := err.Error()
	var add func(error)
	add = func(err error) {
		if e, ok := err.(*Error); ok && e.cause != nil && !strings.Contains(text, e.cause.Error()) {
			text += " (cause: " + e.cause.Error() + ")"
		}
		switch err := err.(type) {
		case interface{ Unwrap() error }:
			if next := err.Unwrap(); next != nil {
				add(next)
			}
		case interface{ Unwrap() []error }:
			for _, next := range err.Unwrap() {
				add(next)
			}
		}
	}
	add(err)
	return text
}

// KindOf returns the kind of the first [Error] in err's chain, or [Internal].
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// Public returns the part of err that clients may see: the first [Error] in its chain. If there is none, it returns an
// error of kind internal with a general message.
func Public(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Kind: Internal, Message: "Dormouse had an internal error; the daemon's log has the details", cause: err}
}
