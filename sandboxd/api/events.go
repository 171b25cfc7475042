package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
)

// Timeouts of streams.
const (
	stallTimeout = time.Minute      // a client that sends or accepts no byte for this long is considered gone
	beatInterval = 15 * time.Second // the time without an event after which a keep-alive line is sent
)

// followExecution streams the events of an execution: as one JSON object per line, or as server-sent events if the client
// accepts them. If the stream ends without a line that contains an error, it is complete.
func (h *Handler) followExecution(w http.ResponseWriter, r *http.Request) error {
	q, err := params(r, "from")
	if err != nil {
		return err
	}
	from, err := q.integer("from", 1, 0, sandbox.MaxOffset)
	if err != nil {
		return err
	}
	s := &eventStream{w: w, rc: http.NewResponseController(w), sse: acceptsMediaType(r, "text/event-stream")}
	last := r.Header.Get("Last-Event-ID")
	if s.sse && last != "" {
		n, err := strconv.ParseInt(last, 10, 64)
		if err != nil || n < 0 || n > sandbox.MaxOffset {
			return sandbox.Errorf(sandbox.Invalid, "Last-Event-ID %q is not the number of an event", sandbox.Quote(last))
		}
		from = n + 1
	}
	stop := s.startHeartbeat()
	defer stop()
	err = h.untilDrain(r, func(ctx context.Context) error {
		return h.sandboxes.FollowExecution(ctx, r.PathValue("execution"), max(from, 1), s.event)
	})
	stop()
	switch {
	case err == nil && !s.started && last != "":
		w.WriteHeader(http.StatusNoContent) // after status 204, a browser's EventSource does not reconnect
		return nil
	case err == nil:
		return s.start()
	case !s.started || s.broken:
		return err
	}
	// The answer has begun, so the error is sent as its last line.
	if sandbox.KindOf(err) == sandbox.Internal && r.Context().Err() == nil {
		h.log.Error("stream ended", "route", r.Pattern, "err", untrusted(err.Error()))
	}
	return s.write(wire.ErrorBody{Error: sandbox.Public(err)}, 0)
}

func acceptsMediaType(r *http.Request, mediaType string) bool {
	for _, accept := range r.Header.Values("Accept") {
		for part := range strings.SplitSeq(accept, ",") {
			name, _, _ := strings.Cut(part, ";")
			if strings.EqualFold(strings.TrimSpace(name), mediaType) {
				return true
			}
		}
	}
	return false
}

// eventStream writes events to a client. It sends the header only with the first event or keep-alive line. Before that, the
// handler can still answer with an error status.
type eventStream struct {
	w   http.ResponseWriter
	rc  *http.ResponseController
	sse bool

	mu      sync.Mutex // guards the fields below and all writes, because keep-alive lines are written by another goroutine
	started bool
	broken  bool      // a write failed: the client has disconnected
	last    time.Time // the time of the last write
}

// event sends one event.
func (s *eventStream) event(e sandbox.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.write(e, e.Seq)
}

// start sends the header, unless it was sent already.
func (s *eventStream) start() error {
	if s.started {
		return nil
	}
	s.started = true
	s.w.Header().Set("Content-Type", "application/x-ndjson")
	if s.sse {
		s.w.Header().Set("Content-Type", "text/event-stream")
	}
	s.w.Header().Set("X-Accel-Buffering", "no") // nginx would otherwise buffer the events
	s.w.WriteHeader(http.StatusOK)
	return s.flush()
}

// write sends v as JSON. seq is the number of the event, or 0 if v is no event.
func (s *eventStream) write(v any, seq int64) error {
	if err := s.start(); err != nil {
		return err
	}
	line, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode event %d: %w", seq, err)
	}
	var out []byte
	if s.sse {
		if seq > 0 {
			out = fmt.Appendf(out, "id: %d\n", seq)
		}
		out = append(out, "data: "...)
		line = append(line, '\n')
	}
	return s.send(append(append(out, line...), '\n'))
}

func (s *eventStream) send(p []byte) error {
	_ = s.rc.SetWriteDeadline(time.Now().Add(stallTimeout))
	if _, err := s.w.Write(p); err != nil {
		s.broken = true
		return fmt.Errorf("send event: %w", err)
	}
	return s.flush()
}

func (s *eventStream) flush() error {
	s.last = time.Now()
	if err := s.rc.Flush(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		s.broken = true
		return fmt.Errorf("send event: %w", err)
	}
	return nil
}

// startHeartbeat starts a goroutine that sends an empty line (for server-sent events, a comment) whenever no event was sent for
// beatInterval. These lines keep proxies from closing the connection, and the writes fail if the client has disconnected.
// stop ends the goroutine and waits for it. It may be called more than once.
func (s *eventStream) startHeartbeat() (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(beatInterval)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			s.mu.Lock()
			if time.Since(s.last) >= beatInterval && !s.broken && s.start() == nil {
				blank := "\n"
				if s.sse {
					blank = ": still here\n\n"
				}
				_ = s.send([]byte(blank)) // if the write fails, send sets s.broken
			}
			s.mu.Unlock()
		}
	})
	return sync.OnceFunc(func() {
		close(done)
		wg.Wait()
		_ = s.rc.SetWriteDeadline(time.Time{}) // the deadline must not apply to the next request on the connection
	})
}
