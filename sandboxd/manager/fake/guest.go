package fake

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
)

// Guest implements the guest's protocol. Its kernel runs five statements: "print TEXT", "sleep DURATION" (which then
// prints "slept"), "count N DURATION" (which prints a line every DURATION), "refuse" (the request to execute it gets an
// error) and "die" (the kernel dies). Executions run concurrently, and continue when connections break.
type Guest struct {
	spec   engine.Spec
	exit   func() // ends the guest's container
	ctx    context.Context
	stop   context.CancelFunc
	server *http.Server
	conns  chan net.Conn
	work   sync.WaitGroup

	mu           sync.Mutex    // guards the fields below
	changed      chan struct{} // closed and replaced when any of these fields changes
	executions   map[string]*execution
	files        map[string][]byte
	expires      time.Time
	epoch        int
	dead         bool                        // the kernel is dead; the next execution starts another one
	restores     []guest.Restore             // the accepted reports of a restore
	checkRestore func(context.Context) error // returns the error with which the guest answers reports of a restore, or nil
	open         map[net.Conn]bool           // the guest's ends of the connections
	count        int                         // the value of the counter in probe.go
}

// memory is the part of a guest's state that a checkpoint contains.
type memory struct {
	executions map[string]*execution
	files      map[string][]byte
	expires    time.Time
	epoch      int
	dead       bool
	count      int
}

type execution struct {
	e      sandbox.Execution
	events []sandbox.Event
	cancel context.CancelFunc
}

func newGuest(spec engine.Spec, m memory) *Guest {
	g := &Guest{spec: spec, conns: make(chan net.Conn), changed: make(chan struct{}), open: map[net.Conn]bool{},
		executions: map[string]*execution{}, files: map[string][]byte{}, expires: m.expires, epoch: max(m.epoch, 1), dead: m.dead, count: m.count}
	maps.Copy(g.files, m.files)
	maps.Copy(g.executions, m.executions)
	g.ctx, g.stop = context.WithCancel(context.Background())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", g.status)
	mux.HandleFunc("PUT /v1/expiry", g.expiry)
	mux.HandleFunc("POST /v1/awakening", g.restore)
	mux.HandleFunc("PUT /v1/executions/{id}", g.execute)
	mux.HandleFunc("GET /v1/executions/{id}", g.execution)
	mux.HandleFunc("GET /v1/executions/{id}/events", g.events)
	mux.HandleFunc("POST /v1/executions/{id}/interrupt", g.interrupt)
	mux.HandleFunc("GET /v1/files/{$}", g.list)
	mux.HandleFunc("PUT /v1/files/{path...}", g.put)
	mux.HandleFunc("GET /v1/files/{path...}", g.get)
	g.handleProbe(mux)
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	g.server = &http.Server{Handler: mux, Protocols: protocols, ConnState: func(c net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			g.removeConnection(c)
		}
	}}
	g.work.Go(func() { _ = g.server.Serve(g) })
	return g
}

// memory returns the state of the guest. A guest that is restored from it does not continue executions that are not
// final.
func (g *Guest) memory() memory {
	g.mu.Lock()
	defer g.mu.Unlock()
	return memory{maps.Clone(g.executions), maps.Clone(g.files), g.expires, g.epoch, g.dead, g.count}
}

func (g *Guest) restore(w http.ResponseWriter, r *http.Request) {
	var restore guest.Restore
	if err := json.NewDecoder(r.Body).Decode(&restore); err != nil {
		wire.WriteError(w, err)
		return
	}
	if err := g.checkRestore(r.Context()); err != nil {
		wire.WriteError(w, err)
		return
	}
	g.change(func() {
		g.restores = append(g.restores, restore)
		if restore.AsOfUnix != 0 {
			if g.epoch = max(g.epoch, restore.EpochAbove); !g.dead {
				g.epoch++
			}
		}
	})
	wire.WriteJSON(w, 200, guest.Status{})
}

// KillKernel kills the kernel, whose variables are then lost.
func (g *Guest) KillKernel() { g.change(func() { g.dead = true }) }

// Restores returns the reports of a restore that the guest has accepted.
func (g *Guest) Restores() []guest.Restore {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.restores)
}

// Accept implements [net.Listener].
func (g *Guest) Accept() (net.Conn, error) {
	select {
	case c := <-g.conns:
		return c, nil
	case <-g.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener]. It does nothing: kill stops the guest.
func (g *Guest) Close() error { return nil }

// Addr implements [net.Listener].
func (g *Guest) Addr() net.Addr { return &net.UnixAddr{Name: "test", Net: "unix"} }

// Dial connects to the guest.
func (g *Guest) Dial(ctx context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	g.mu.Lock()
	g.open[theirs] = true
	g.mu.Unlock()
	var err error
	select {
	case g.conns <- theirs:
		return ours, nil
	case <-g.ctx.Done():
		err = net.ErrClosed
	case <-ctx.Done():
		err = ctx.Err()
	}
	g.removeConnection(theirs)
	return nil, err
}

// removeConnection removes a connection that is closed.
func (g *Guest) removeConnection(c net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.open, c)
}

// BreakConnections breaks all connections.
func (g *Guest) BreakConnections() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.open {
		c.Close()
	}
	clear(g.open)
}

// kill stops the guest, as the end of a real container does.
func (g *Guest) kill() {
	g.stop()
	g.BreakConnections()
	g.server.Close()
	g.work.Wait()
}

// change calls fn with g.mu held, and makes all goroutines in await check their conditions again.
func (g *Guest) change(fn func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	fn()
	close(g.changed)
	g.changed = make(chan struct{})
}

// await returns when cond returns true, after the duration d, or when ctx ends. It calls cond with g.mu held.
func (g *Guest) await(ctx context.Context, d time.Duration, cond func() bool) {
	timeout := time.After(d)
	for {
		g.mu.Lock()
		ok, changed := cond(), g.changed
		g.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			return
		case <-ctx.Done():
			return
		case <-g.ctx.Done():
			return
		}
	}
}

// AwaitExecutions waits until the guest has received n executions, at most for a minute.
func (g *Guest) AwaitExecutions(ctx context.Context, n int) {
	g.await(ctx, time.Minute, func() bool { return len(g.executions) == n })
}

// AwaitEnd waits until an execution is final, at most for a minute.
func (g *Guest) AwaitEnd(ctx context.Context, id sandbox.ExecutionID) {
	g.await(ctx, time.Minute, func() bool { return g.executions[string(id)].e.State.Final() })
}

// Executions returns how many executions the guest has received.
func (g *Guest) Executions() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.executions)
}

// OutputBytes returns how many bytes an execution has printed.
func (g *Guest) OutputBytes(id sandbox.ExecutionID) int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.executions[string(id)].e.OutputBytes
}

func (g *Guest) status(w http.ResponseWriter, _ *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	st := guest.Status{Usage: sandbox.Usage{MemoryBytes: 12345}, Kernels: []sandbox.Kernel{{Language: sandbox.Python, State: sandbox.KernelIdle, Epoch: g.epoch}}}
	if g.dead {
		st.Kernels[0].State = sandbox.KernelStopped
	}
	for _, r := range g.executions {
		if !r.e.State.Final() {
			st.Executions = append(st.Executions, r.e)
		}
	}
	wire.WriteJSON(w, 200, st)
}

func (g *Guest) expiry(w http.ResponseWriter, r *http.Request) {
	var e guest.Expiry
	if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
		wire.WriteError(w, err)
		return
	}
	g.change(func() { g.expires = time.Unix(e.ExpireUnix, 0) })
	wire.WriteJSON(w, 200, guest.Status{})
}

func (g *Guest) execute(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	var req sandbox.ExecuteRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		wire.WriteError(w, err)
		return
	}
	words := strings.Fields(req.Code)
	if words[0] == "refuse" {
		wire.WriteError(w, sandbox.Errorf(sandbox.Busy, "too many executions are waiting"))
		return
	}
	g.change(func() {
		if g.executions[id] == nil {
			if g.dead {
				g.dead, g.epoch = false, g.epoch+1
			}
			ctx, cancel := context.WithCancel(g.ctx)
			run := &execution{cancel: cancel, e: sandbox.Execution{ID: sandbox.ExecutionID(id), Language: req.Language, State: sandbox.ExecRunning, KernelEpoch: g.epoch,
				TimeoutSeconds: *req.TimeoutSeconds, CreateTime: time.Now(), StartTime: time.Now()}}
			g.executions[id] = run
			g.work.Go(func() { g.run(ctx, run, words) })
		}
	})
	g.answer(w, r, id, req.Window)
}

func (g *Guest) run(ctx context.Context, run *execution, words []string) {
	defer run.cancel()
	state := sandbox.ExecSucceeded
	pause := func(s string) bool {
		d, _ := time.ParseDuration(s)
		select {
		case <-time.After(d):
			return true
		case <-ctx.Done():
			return false
		}
	}
	switch words[0] {
	case "die":
		state = sandbox.ExecKernelDied
		g.KillKernel()
	case "print":
		g.print(run, strings.Join(words[1:], " "))
	case "sleep":
		if pause(words[1]) {
			g.print(run, "slept")
		} else {
			state = sandbox.ExecInterrupted
		}
	case "count":
		n, _ := strconv.Atoi(words[1])
		for i := range n {
			if !pause(words[2]) {
				state = sandbox.ExecInterrupted
				break
			}
			g.print(run, strconv.Itoa(i)+"\n")
		}
	}
	g.change(func() {
		run.e.State, run.e.EndTime = state, time.Now()
		run.events = append(run.events, sandbox.Event{Seq: int64(len(run.events) + 1), Type: sandbox.EventStatus, State: state, Offset: run.e.OutputBytes})
	})
}

func (g *Guest) print(run *execution, text string) {
	g.change(func() {
		run.events = append(run.events, sandbox.Event{Seq: int64(len(run.events) + 1), Type: sandbox.EventStdout, Text: text, Offset: run.e.OutputBytes})
		run.e.OutputBytes += int64(len(text))
	})
}

func (g *Guest) execution(w http.ResponseWriter, r *http.Request) {
	offset, _ := strconv.ParseInt(r.FormValue("offset"), 10, 64)
	g.answer(w, r, r.PathValue("id"), sandbox.Window{Offset: offset})
}

func (g *Guest) answer(w http.ResponseWriter, r *http.Request, id string, win sandbox.Window) {
	wait, _ := strconv.ParseFloat(r.FormValue("wait"), 64)
	g.mu.Lock()
	run := g.executions[id]
	g.mu.Unlock()
	if run == nil {
		wire.WriteError(w, sandbox.Errorf(sandbox.NotFound, "there is no execution %q", id))
		return
	}
	g.await(r.Context(), time.Duration(wait*float64(time.Second)), func() bool { return run.e.State.Final() })
	g.mu.Lock()
	e := run.e
	for _, ev := range run.events {
		if ev.Offset >= win.Offset {
			e.Events = append(e.Events, ev)
		}
	}
	e.NextOffset = e.OutputBytes
	g.mu.Unlock()
	wire.WriteJSON(w, 200, e)
}

func (g *Guest) events(w http.ResponseWriter, r *http.Request) {
	from, _ := strconv.ParseInt(r.FormValue("from"), 10, 64)
	g.mu.Lock()
	run := g.executions[r.PathValue("id")]
	g.mu.Unlock()
	if run == nil {
		wire.WriteError(w, sandbox.Errorf(sandbox.NotFound, "there is no execution"))
		return
	}
	out := json.NewEncoder(w)
	for r.Context().Err() == nil && g.ctx.Err() == nil {
		g.await(r.Context(), time.Hour, func() bool { return int64(len(run.events)) >= from || run.e.State.Final() })
		g.mu.Lock()
		events, final := slices.Clone(run.events[min(from-1, int64(len(run.events))):]), run.e.State.Final()
		g.mu.Unlock()
		for _, ev := range events {
			_ = out.Encode(ev)
			from = ev.Seq + 1
		}
		w.(http.Flusher).Flush()
		if final {
			return
		}
	}
}

func (g *Guest) interrupt(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	if run := g.executions[r.PathValue("id")]; run != nil {
		run.cancel()
	}
	g.mu.Unlock()
	r.Form = map[string][]string{"wait": {"10"}}
	g.answer(w, r, r.PathValue("id"), sandbox.Window{})
}

func (g *Guest) list(w http.ResponseWriter, _ *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var l guest.FileList
	for path, data := range g.files {
		l.Files = append(l.Files, sandbox.File{Path: path, Size: int64(len(data))})
	}
	wire.WriteJSON(w, 200, l)
}

func (g *Guest) put(w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	g.change(func() { g.files[r.PathValue("path")] = data })
	wire.WriteJSON(w, 200, sandbox.File{Path: r.PathValue("path"), Size: int64(len(data))})
}

func (g *Guest) get(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	data, ok := g.files[r.PathValue("path")]
	g.mu.Unlock()
	if !ok {
		wire.WriteError(w, sandbox.Errorf(sandbox.NotFound, "there is no file"))
		return
	}
	w.Header().Set(guest.SizeHeader, strconv.Itoa(len(data)))
	offset, _ := strconv.Atoi(r.FormValue("offset"))
	data = data[min(offset, len(data)):]
	if n, err := strconv.Atoi(r.FormValue("length")); err == nil {
		data = data[:min(n, len(data))]
	}
	_, _ = io.Copy(w, bytes.NewReader(data))
}
