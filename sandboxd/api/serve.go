package api

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
)

// ServeHTTP serves one request. A panic in a handler is logged and answered with an internal error.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	res := &responseRecorder{ResponseWriter: w}
	req := canonical(r)
	if !wire.HasBudget(r.Context()) {
		ctx, release := h.answers.WithBudget(r.Context())
		defer release()
		req = req.WithContext(ctx)
	}
	body := &requestBody{ReadCloser: r.Body, rc: http.NewResponseController(w)}
	req.Body = body
	res.Header().Set("X-Content-Type-Options", "nosniff")
	res.Header().Set("Cache-Control", "no-store")

	defer func() {
		p := recover()
		if p != nil && p != http.ErrAbortHandler {
			h.fail(res, req, &panicError{value: p, stack: debug.Stack()})
		}
		// Only sizes are logged: the content of a request is confidential.
		h.log.Debug("request", "method", untrusted(req.Method), "route", req.Pattern, "status", res.status,
			"bytes_in", body.n, "bytes_out", res.n, "took", time.Since(start))
		if p == http.ErrAbortHandler || (p != nil && res.incomplete) {
			panic(http.ErrAbortHandler) // this panic breaks the connection, so that the client sees that the answer is incomplete
		}
	}()
	h.dispatch(res, req)
}

// fail answers with the part of err that clients may see. It logs an internal error, and an error of kind unavailable that
// has a cause. If an answer has begun, fail sends nothing. If the client has disconnected, fail only logs err, at debug
// level, unless err is a panic.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	if _, panicked := errors.AsType[*panicError](err); !panicked && r.Context().Err() != nil {
		h.log.Debug("client disconnected", "route", r.Pattern, "err", untrusted(err.Error()))
		return
	}
	kind := sandbox.KindOf(err)
	if kind == sandbox.Internal {
		id := rand.Text()[:10]
		attrs := []any{"id", id, "route", r.Pattern, "err", untrusted(err.Error())}
		if p, ok := errors.AsType[*panicError](err); ok {
			attrs = append(attrs, "stack", string(p.stack))
		}
		h.log.Error("internal error", attrs...)
		err = sandbox.Errorf(sandbox.Internal, "Dormouse had an internal error: the daemon's log has the details under %s", id)
	} else if cause := errors.Unwrap(err); cause != nil && kind == sandbox.Unavailable {
		h.log.Warn("unavailable", "route", r.Pattern, "err", untrusted(err.Error()), "cause", untrusted(cause.Error()))
	}
	if res, ok := w.(*responseRecorder); ok && res.status != 0 {
		res.incomplete = true // the answer has begun, so the error can't be sent
		return
	}
	if e, ok := errors.AsType[*statusError](err); ok {
		wire.WriteJSON(w, e.status, wire.ErrorBody{Error: e.err})
		return
	}
	wire.WriteError(w, err)
}

// statusError is an error whose HTTP status is not that of its kind.
type statusError struct {
	status int
	err    *sandbox.Error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

// untilDrain calls fn with a context that also ends when Drain is called. If fn fails after the call of Drain, untilDrain
// returns [sandbox.ErrStopping].
func (h *Handler) untilDrain(r *http.Request, fn func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	defer context.AfterFunc(h.stopping, func() { cancel(sandbox.ErrStopping) })()
	err := fn(ctx)
	if err != nil && context.Cause(ctx) == sandbox.ErrStopping {
		return sandbox.ErrStopping
	}
	return err
}

// untrusted returns a log value for text from outside: quoted, and cut to 500 bytes before quoting.
func untrusted(s string) slog.LogValuer { return quoted(s) }

type quoted string

func (q quoted) LogValue() slog.Value {
	const maximum = 500
	s := string(q)
	if len(s) > maximum {
		s = s[:maximum]
	}
	return slog.StringValue(fmt.Sprintf("%+q", s))
}

// panicError passes a recovered panic to fail.
type panicError struct {
	value any
	stack []byte
}

func (p *panicError) Error() string { return fmt.Sprintf("panic: %v", p.value) }

// responseRecorder records the status and the size of an answer.
type responseRecorder struct {
	http.ResponseWriter
	status     int   // 0: the answer has not begun
	n          int64 // bytes written
	incomplete bool  // the answer has begun and could not be completed
}

func (r *responseRecorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *responseRecorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(p)
	r.n += int64(n)
	return n, err
}

// Unwrap is called by http.ResponseController.
func (r *responseRecorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
