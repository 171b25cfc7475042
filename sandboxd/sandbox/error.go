package sandbox

import (
	"errors"
	"fmt"
	"strings"
)

// Kind says what sort of thing went wrong; each edge maps it in one table.
type Kind string

// The closed set of kinds. Everything that is no [Error] is internal: its text is
// logged and stays home.
const (
	Invalid     Kind = "invalid"     // the request can never work as it stands
	NotFound    Kind = "not_found"   // no such thing, or not yours
	Expired     Kind = "expired"     // it was there; its time is over or it was lost
	Busy        Kind = "busy"        // try again later
	Limit       Kind = "limit"       // a stated limit was reached
	Unavailable Kind = "unavailable" // something that is needed does not answer
	Internal    Kind = "internal"
)

// Error is an error whose text is meant for the person or model at the other end:
// what happened, why, and what to do next. It never names a path of the host.
type Error struct {
	Kind    Kind   `json:"kind"`
	Message string `json:"message"`

	cause error
}

// Errorf makes an [Error]. A %w in the format keeps its cause for errors.Is and for
// the log; the message shows the cause's text, so wrap only what may be shown.
func Errorf(kind Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Message: err.Error(), cause: errors.Unwrap(err)}
}

// WithCause attaches an error that is logged, and not shown.
func (e *Error) WithCause(err error) *Error {
	e.cause = err
	return e
}

func (e *Error) Error() string { return e.Message }

func (e *Error) Unwrap() error { return e.cause }

// Details is err's text with that of the causes in it that are not shown, for the log.
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

// Public returns what may be shown of err: the first [Error] in its chain, or a
// sentence that says nothing.
func Public(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Kind: Internal, Message: "Dormouse had an internal error; the daemon's log has the details", cause: err}
}
