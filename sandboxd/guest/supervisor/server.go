//go:build linux

package supervisor

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"strconv"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
)

// maxRequest bounds a request's JSON. It is enough for a megabyte of code in which every byte is escaped.
const maxRequest = 8 * sandbox.MiB

// server returns the HTTP server for the daemon, which is the only client that can reach the guest.
func (s *Supervisor) server() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:   s.routes(),
		Protocols: protocols,
		ErrorLog:  log.New(io.Discard, "", 0),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          1000,
			MaxReadFrameSize:              1 << 20,
			MaxReceiveBufferPerConnection: 4<<20 - 1,
			MaxReceiveBufferPerStream:     4<<20 - 1,
		},
	}
}

// routes returns the handler of the routes that package guest defines.
func (s *Supervisor) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, h func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := h(w, r); err != nil {
				wire.WriteError(w, err)
			}
		})
	}
	handle("GET "+guest.StatusRoute, s.getStatus)
	handle("PUT "+guest.ExpiryRoute, s.putExpiry)
	handle("POST "+guest.RestoreRoute, s.postRestore)
	handle("POST "+guest.PrepareRoute, s.postPreparation)
	handle("PUT "+guest.ExecutionsRoute+"{id}", s.putExecution)
	handle("GET "+guest.ExecutionsRoute+"{id}", s.getExecution)
	handle("GET "+guest.ExecutionsRoute+"{id}/events", s.getEvents)
	handle("POST "+guest.ExecutionsRoute+"{id}/interrupt", s.postInterrupt)
	handle("GET "+guest.FilesRoute+"{$}", s.listFiles)
	handle("GET "+guest.FilesRoute+"{path...}", s.getFile)
	handle("PUT "+guest.FilesRoute+"{path...}", s.putFile)
	return mux
}

func (s *Supervisor) getStatus(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, s.status())
}

func (s *Supervisor) putExpiry(w http.ResponseWriter, r *http.Request) error {
	var expiry guest.Expiry
	if err := wire.ReadJSON(w, r, maxRequest, &expiry); err != nil {
		return err
	}
	if expiry.ExpireUnix <= 0 {
		return sandbox.Errorf(sandbox.Invalid, "expire_unix %d must be above 0", expiry.ExpireUnix)
	}
	s.deadman.set(time.Unix(expiry.ExpireUnix, 0))
	return done(w)
}

func (s *Supervisor) postRestore(w http.ResponseWriter, r *http.Request) error {
	var restore guest.Restore
	if err := wire.ReadJSON(w, r, maxRequest, &restore); err != nil {
		return err
	}
	if restore.AsOfUnix < 0 || restore.EpochAbove < 0 {
		return sandbox.Errorf(sandbox.Invalid, "as_of_unix %d and epoch_above %d must be at least 0", restore.AsOfUnix, restore.EpochAbove)
	}
	for _, l := range s.lanes {
		l.handleRestore(restore)
	}
	return done(w)
}

func (s *Supervisor) postPreparation(w http.ResponseWriter, r *http.Request) error {
	var p guest.Preparation
	if err := wire.ReadJSON(w, r, maxRequest, &p); err != nil {
		return err
	}
	lane, err := s.lane(p.Language)
	if err != nil {
		return err
	}
	if err := lane.prepareForSnapshot(r.Context()); err != nil {
		return err
	}
	return done(w)
}

// lane returns the lane of a language, or an Invalid error if there is no kernel for it.
func (s *Supervisor) lane(lang sandbox.Language) (*lane, error) {
	l := s.lanes[lang]
	if l == nil {
		return nil, sandbox.Errorf(sandbox.Invalid, "there is no kernel for the language %q", sandbox.Quote(string(lang)))
	}
	return l, nil
}

func (s *Supervisor) putExecution(w http.ResponseWriter, r *http.Request) error {
	id, err := sandbox.ParseExecutionID(r.PathValue("id"))
	if err != nil {
		return err
	}
	wait, err := waitOf(r)
	if err != nil {
		return err
	}
	var req sandbox.ExecuteRequest
	if err := wire.ReadJSON(w, r, maxRequest, &req); err != nil {
		return err
	}
	if err := req.Validate(s.config.Language); err != nil {
		return err
	}
	lane, err := s.lane(req.Language)
	if err != nil {
		return err
	}
	e, err := s.registry.accept(id, req, lane.add)
	if err != nil {
		return err
	}
	e.wait(r.Context(), wait)
	return answer(w, e, req.Window)
}

func (s *Supervisor) getExecution(w http.ResponseWriter, r *http.Request) error {
	e, err := s.find(r)
	if err != nil {
		return err
	}
	wait, err := waitOf(r)
	if err != nil {
		return err
	}
	var window sandbox.Window
	if window.Offset, err = number(r, "offset"); err != nil {
		return err
	}
	head, err := number(r, "head")
	if err != nil {
		return err
	}
	tail, err := number(r, "tail")
	if err != nil {
		return err
	}
	window.Head, window.Tail = int(head), int(tail)
	e.wait(r.Context(), wait)
	return answer(w, e, window)
}

func (s *Supervisor) getEvents(w http.ResponseWriter, r *http.Request) error {
	e, err := s.find(r)
	if err != nil {
		return err
	}
	from, err := number(r, "from")
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w)
	_ = flush.Flush()
	enc := newEncoder(w)
	err = e.journal.Follow(r.Context(), from, func(events []sandbox.Event) error {
		for i := range events {
			if err := enc.Encode(&events[i]); err != nil {
				return err
			}
		}
		return flush.Flush()
	})
	if err != nil {
		panic(http.ErrAbortHandler) // aborts the stream, so that the answer does not look complete
	}
	return nil
}

// postInterrupt stops an execution and answers when it has stopped, or after half a minute. A queued execution is
// removed from the queue and never runs.
func (s *Supervisor) postInterrupt(w http.ResponseWriter, r *http.Request) error {
	e, err := s.find(r)
	if err != nil {
		return err
	}
	if s.lanes[e.current().Language].remove(e) {
		e.end(outcome{state: sandbox.ExecInterrupted, reason: neverRan})
	}
	e.interrupt()
	const longest = 30 * time.Second // stopping an execution usually takes at most eight seconds
	e.wait(r.Context(), longest)
	return answer(w, e, sandbox.Window{Offset: e.journal.TextBytes()})
}

func (s *Supervisor) find(r *http.Request) (*execution, error) {
	id, err := sandbox.ParseExecutionID(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	return s.registry.get(id)
}

func answer(w http.ResponseWriter, e *execution, window sandbox.Window) error {
	record, err := e.window(window)
	if err != nil {
		return err
	}
	return writeJSON(w, record)
}

// waitOf returns how long the answer may wait for the end of the execution: the query parameter wait, in seconds.
func waitOf(r *http.Request) (time.Duration, error) {
	text := r.URL.Query().Get("wait")
	if text == "" {
		return 0, nil
	}
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, sandbox.Errorf(sandbox.Invalid, "wait %q is not a number of seconds", sandbox.Quote(text))
	}
	if err := sandbox.ValidateWait(seconds); err != nil {
		return 0, err
	}
	return time.Duration(seconds * float64(time.Second)), nil
}

// number returns a query parameter as a number from 0 to sandbox.MaxOffset. A missing parameter is 0.
func number(r *http.Request, name string) (int64, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case n > sandbox.MaxOffset: // ParseInt returns the largest int64 with ErrRange
		return 0, sandbox.Errorf(sandbox.Invalid, "%s %s is too large: use at most %d", name, sandbox.Quote(text), int64(sandbox.MaxOffset))
	case err != nil || n < 0:
		return 0, sandbox.Errorf(sandbox.Invalid, "%s %q is not a whole number of at least 0", name, sandbox.Quote(text))
	}
	return n, nil
}

// done answers with 204 No Content.
func done(w http.ResponseWriter) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// writeJSON answers with v as JSON.
func writeJSON(w http.ResponseWriter, v any) error {
	w.Header().Set("Content-Type", "application/json")
	if err := newEncoder(wire.Whole(w, http.StatusOK)).Encode(v); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return nil
}

func newEncoder(w io.Writer) *json.Encoder {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc
}
