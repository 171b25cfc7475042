package sandboxd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Timeouts for opening an engine.
const (
	openTimeout = 15 * time.Second
	openRetry   = time.Second // for this long after a failed attempt, calls return the error of that attempt
)

// lazyEngine is an engine.Engine that opens the underlying engine when it is first needed. If opening the engine fails, the
// call returns the reason, and a later call tries again. Once open, the underlying engine stays open even while it does not
// answer, because an engine of another kind would not have its sandboxes. It may be used concurrently.
type lazyEngine struct {
	name string
	open func(context.Context) (engine.Engine, error)
	log  *slog.Logger

	ctx  context.Context // the parent of the contexts of attempts to open the engine; Close ends ctx
	stop context.CancelFunc

	mu          sync.Mutex
	engine      engine.Engine // nil: not open
	attempt     chan struct{} // closed when the current attempt to open the engine ends; nil: there is no current attempt
	err         error         // the error of the last attempt
	lastAttempt time.Time     // when the last attempt ended
}

var (
	_ engine.Engine = (*lazyEngine)(nil)
	_ engine.Opener = (*lazyEngine)(nil)
)

func newLazyEngine(name string, open func(context.Context) (engine.Engine, error), log *slog.Logger) *lazyEngine {
	l := &lazyEngine{name: name, open: open, log: log}
	l.ctx, l.stop = context.WithCancel(context.Background())
	return l
}

// get returns the underlying engine, or the reason why it is not open. Concurrent callers share one attempt to open the engine.
// The attempt continues when a caller's ctx ends.
func (l *lazyEngine) get(ctx context.Context) (engine.Engine, error) {
	l.mu.Lock()
	if l.engine == nil && l.attempt == nil && (l.err == nil || time.Since(l.lastAttempt) >= openRetry) && l.ctx.Err() == nil {
		l.attempt = make(chan struct{})
		go l.try()
	}
	attempt := l.attempt
	l.mu.Unlock()
	if attempt != nil {
		select {
		case <-attempt:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.engine != nil {
		return l.engine, nil
	}
	if l.ctx.Err() != nil {
		return nil, sandbox.ErrStopping
	}
	return nil, l.err
}

func (l *lazyEngine) try() {
	ctx, cancel := context.WithTimeout(l.ctx, openTimeout)
	defer cancel()
	e, err := l.open(ctx)
	if err != nil && sandbox.KindOf(err) == sandbox.Internal {
		err = sandbox.Errorf(sandbox.Unavailable, "the %s engine cannot be used; run `dormouse doctor` to find the reason", l.name).WithCause(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		info := e.Info()
		l.log.Info("engine opened", "name", info.Name, "version", info.Version, "runtime", info.Runtime, "why", info.Why)
	case l.err == nil || l.err.Error() != err.Error():
		l.log.Warn("the engine cannot be opened; the next call that needs it tries again", "engine", l.name, "err", err, "cause", errors.Unwrap(err))
	}
	l.engine, l.err, l.lastAttempt = e, err, time.Now()
	close(l.attempt)
	l.attempt = nil
}

// Info describes the underlying engine. If that engine is not open, the field Why has the reason.
func (l *lazyEngine) Info() engine.Info {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.engine != nil {
		return l.engine.Info()
	}
	info := engine.Info{Name: l.name, Why: "not opened yet"}
	if l.err != nil {
		info.Why = sandbox.Public(l.err).Message
	}
	return info
}

// Open implements [engine.Opener].
func (l *lazyEngine) Open(ctx context.Context) error {
	_, err := l.get(ctx)
	return err
}

// failed reports whether the last attempt to open the engine failed and there is no current attempt.
func (l *lazyEngine) failed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.engine == nil && l.err != nil && l.attempt == nil
}

// Unwrap returns the underlying engine, or nil if it is not open. Callers use it to find the optional interfaces that the
// engine implements in addition to [engine.Engine].
func (l *lazyEngine) Unwrap() engine.Engine {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.engine
}

func (l *lazyEngine) Create(ctx context.Context, spec engine.Spec) error {
	e, err := l.get(ctx)
	if err != nil {
		return err
	}
	return e.Create(ctx, spec)
}

func (l *lazyEngine) Dial(ctx context.Context, id sandbox.ID) (net.Conn, error) {
	e, err := l.get(ctx)
	if err != nil {
		return nil, err
	}
	return e.Dial(ctx, id)
}

func (l *lazyEngine) Remove(ctx context.Context, id sandbox.ID) error {
	e, err := l.get(ctx)
	if err != nil {
		return err
	}
	return e.Remove(ctx, id)
}

func (l *lazyEngine) List(ctx context.Context) ([]engine.Container, error) {
	e, err := l.get(ctx)
	if err != nil {
		return nil, err
	}
	return e.List(ctx)
}

// Close ends the current attempt to open the underlying engine, if any, and closes that engine if it is open.
func (l *lazyEngine) Close() error {
	l.stop()
	l.mu.Lock()
	attempt := l.attempt
	l.mu.Unlock()
	if attempt != nil {
		<-attempt
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.engine == nil {
		return nil
	}
	return l.engine.Close()
}
