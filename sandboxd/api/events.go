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
)

// Times of streams.
const (
	stallTimeout = time.Minute      // a peer that moves no byte for so long has gone
	beatInterval = 15 * time.Second // of silence, before a sign of life
)

// followExecution answers with an execution's events as they come: one a line, or
// as server-sent events if that is what the client accepts. A stream that ends without
// an error line is whole.
func (h *Handler) followExecution(w http.ResponseWriter, r *http.Request) error {
	q, err := params(r, "from")
	if err != nil {
		return err
	}
	from, err := q.integer("from", 1, 0, maxOffset)
	if err != nil {
		return err
	}
	s := &eventStream{w: w, rc: http.NewResponseController(w), sse: accepts(r, "text/event-stream")}
	last := r.Header.Get("Last-Event-ID")
	if s.sse && last != "" {
		n, err := strconv.ParseInt(last, 10, 64)
		if err != nil || n < 0 || n > maxOffset {
			return sandbox.Errorf(sandbox.Invalid, "Last-Event-ID %q is not the number of an event", sandbox.Quote(last))
		}
		from = n + 1
	}
	stop := s.beat()
	defer stop()
	err = h.waiting(r, func(ctx context.Context) error {
		return h.sandboxes.FollowExecution(ctx, r.PathValue("execution"), max(from, 1), s.event)
	})
	stop()
	switch {
	case err == nil && !s.started && last != "":
		w.WriteHeader(http.StatusNoContent) // which tells an EventSource not to come back
		return nil
	case err == nil:
		return s.start()
	case !s.started || s.broken:
		return err
	}
	// The answer has begun, so the error is its last line.
	if sandbox.KindOf(err) == sandbox.Internal && r.Context().Err() == nil {
		h.log.Error("stream ended", "route", r.Pattern, "err", untrusted(err.Error()))
	}
	return s.write(failure{Error: sandbox.Public(err)}, 0)
}

func accepts(r *http.Request, mediaType string) bool {
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

// eventStream writes events as they come. Nothing is sent before the first of them,
// or the first beat, so that an error can still be an answer of its own.
type eventStream struct {
	w   http.ResponseWriter
	rc  *http.ResponseController
	sse bool

	mu      sync.Mutex // beats come between events
	started bool
	broken  bool // a write failed: the client has gone
	last    time.Time
}

// event is called with each event.
func (s *eventStream) event(e sandbox.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.write(e, e.Seq)
}

// start sends the header.
func (s *eventStream) start() error {
	if s.started {
		return nil
	}
	s.started = true
	s.w.Header().Set("Content-Type", "application/x-ndjson")
	if s.sse {
		s.w.Header().Set("Content-Type", "text/event-stream")
	}
	s.w.Header().Set("X-Accel-Buffering", "no") // for proxies that would wait for more
	s.w.WriteHeader(http.StatusOK)
	return s.flush()
}

// write sends one JSON value.
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

// beat sends an empty line (a comment, for server-sent events) into long silences, so that
// proxies keep the connection and a client that has gone is noticed. The function that
// it returns ends that, and may be called twice.
func (s *eventStream) beat() (stop func()) {
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
				_ = s.send([]byte(blank)) // a broken stream is remembered as such
			}
			s.mu.Unlock()
		}
	})
	return sync.OnceFunc(func() {
		close(done)
		wg.Wait()
		_ = s.rc.SetWriteDeadline(time.Time{}) // the connection may serve others
	})
}
