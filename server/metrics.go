package server

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Metrics counts requests, tool calls and executions, for Prometheus. Its methods may be called concurrently. The methods
// that count do nothing if m is nil. All label values come from fixed sets, so that no client can add new ones.
type Metrics struct {
	version string

	mu       sync.Mutex
	requests map[[2]string]uint64  // the number of HTTP requests by route and status
	took     map[string]*histogram // the durations of HTTP requests by route
	refusals map[string]uint64     // the number of refused HTTP requests by reason
	calls    map[[2]string]uint64  // the number of tool calls by tool and outcome
	callTook map[string]*histogram // the durations of tool calls by tool
	started  uint64
	ended    map[sandbox.ExecutionState]uint64
}

// NewMetrics returns metrics that report the given program version.
func NewMetrics(version string) *Metrics {
	return &Metrics{
		version:  version,
		requests: map[[2]string]uint64{}, took: map[string]*histogram{}, refusals: map[string]uint64{},
		calls: map[[2]string]uint64{}, callTook: map[string]*histogram{}, ended: map[sandbox.ExecutionState]uint64{},
	}
}

// buckets are the upper bounds of the histograms' buckets, in seconds. The last is 300 because calls wait up to 300 s.
var buckets = [...]float64{0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 15, 45, 120, 300}

type histogram struct {
	counts [len(buckets) + 1]uint64 // each value is counted in one bucket only; prom.histograms writes cumulative counts
	sum    float64
}

func (h *histogram) observe(d time.Duration) {
	i, _ := slices.BinarySearch(buckets[:], d.Seconds())
	h.counts[i]++
	h.sum += d.Seconds()
}

func observe(m map[string]*histogram, key string, d time.Duration) {
	if m[key] == nil {
		m[key] = &histogram{}
	}
	m[key].observe(d)
}

// request counts an answered HTTP request. The duration of a streamed request is not recorded.
func (m *Metrics) request(route string, status int, took time.Duration, streamed bool) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.requests[[2]string{route, strconv.Itoa(cmp.Or(status, http.StatusOK))}]++
	if !streamed {
		observe(m.took, route, took)
	}
}

func (m *Metrics) refused(why string) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refusals[why]++
}

// toolCalled counts a call of an MCP tool.
func (m *Metrics) toolCalled(tool string, isError bool, took time.Duration) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls[[2]string{tool, map[bool]string{false: "ok", true: "error"}[isError]}]++
	observe(m.callTook, tool, took)
}

// Execution counts an execution that has begun or ended. The caller must call it once when an execution begins, and once
// when it ends.
func (m *Metrics) Execution(e sandbox.Execution) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if e.State.Final() {
		m.ended[e.State]++
	} else {
		m.started++
	}
}

// finalStates are always written, even with a count of zero: Prometheus can compute a rate only from an earlier value.
var finalStates = []sandbox.ExecutionState{sandbox.ExecSucceeded, sandbox.ExecFailed, sandbox.ExecInterrupted,
	sandbox.ExecTimedOut, sandbox.ExecKernelDied, sandbox.ExecLost}

// write writes the counts in Prometheus' text format.
func (m *Metrics) write(w io.Writer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := prom{w}
	p.head("dormouse_build_info", "gauge", "The version of this server.")
	p.line("dormouse_build_info", 1, "version", m.version, "go", runtime.Version())
	p.head("dormouse_executions_started_total", "counter", "Executions that have started.")
	p.line("dormouse_executions_started_total", float64(m.started))
	p.head("dormouse_executions_ended_total", "counter", "Executions that ended, by their last state.")
	for _, s := range finalStates {
		p.line("dormouse_executions_ended_total", float64(m.ended[s]), "state", string(s))
	}
	p.head("dormouse_tool_calls_total", "counter", "MCP tool calls.")
	for _, k := range sortedPairs(m.calls) {
		p.line("dormouse_tool_calls_total", float64(m.calls[k]), "tool", k[0], "outcome", k[1])
	}
	p.histograms("dormouse_tool_call_seconds", "How long MCP tool calls took.", "tool", m.callTook)
	p.head("dormouse_http_requests_total", "counter", "HTTP requests.")
	for _, k := range sortedPairs(m.requests) {
		p.line("dormouse_http_requests_total", float64(m.requests[k]), "route", k[0], "status", k[1])
	}
	p.histograms("dormouse_http_request_seconds", "How long HTTP requests took, except streams.", "route", m.took)
	p.head("dormouse_http_refused_total", "counter", "HTTP requests that the guard refused.")
	for _, why := range slices.Sorted(maps.Keys(m.refusals)) {
		p.line("dormouse_http_refused_total", float64(m.refusals[why]), "why", why)
	}
}

func sortedPairs(m map[[2]string]uint64) [][2]string {
	return slices.SortedFunc(maps.Keys(m), func(a, b [2]string) int {
		return cmp.Or(strings.Compare(a[0], b[0]), strings.Compare(a[1], b[1]))
	})
}

// prom writes Prometheus' text format. Labels are passed as alternating names and values.
type prom struct{ io.Writer }

func (p prom) head(name, kind, help string) {
	fmt.Fprintf(p, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

func (p prom) line(name string, value float64, labels ...string) {
	var l []string
	for i := 0; i+1 < len(labels); i += 2 {
		l = append(l, fmt.Sprintf("%s=%s", labels[i], quoteLabel(labels[i+1])))
	}
	if len(l) > 0 {
		name += "{" + strings.Join(l, ",") + "}"
	}
	fmt.Fprintf(p, "%s %s\n", name, strconv.FormatFloat(value, 'g', -1, 64))
}

func (p prom) histograms(name, help, label string, all map[string]*histogram) {
	p.head(name, "histogram", help)
	for _, key := range slices.Sorted(maps.Keys(all)) {
		var n uint64
		for i, bound := range buckets {
			n += all[key].counts[i]
			p.line(name+"_bucket", float64(n), label, key, "le", strconv.FormatFloat(bound, 'g', -1, 64))
		}
		n += all[key].counts[len(buckets)]
		p.line(name+"_bucket", float64(n), label, key, "le", "+Inf")
		p.line(name+"_sum", all[key].sum, label, key)
		p.line(name+"_count", float64(n), label, key)
	}
}

func quoteLabel(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}

// serveMetrics serves /metrics.
func (h *HTTP) serveMetrics(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", http.MethodGet)
		fail(w, http.StatusMethodNotAllowed, "invalid", "get metrics with GET")
		return
	}
	var text bytes.Buffer
	h.config.Metrics.write(&text)
	p := prom{&text}
	if states, err := h.sandboxStates(r); err == nil {
		p.head("dormouse_sandboxes", "gauge", "Sandboxes, by state.")
		for _, s := range []sandbox.State{sandbox.Provisioning, sandbox.Running, sandbox.Suspended} {
			p.line("dormouse_sandboxes", float64(states[s]), "state", string(s))
		}
	} else {
		h.log.Warn("the sandboxes could not be counted for /metrics", "error", err)
	}
	p.head("dormouse_http_requests_in_flight", "gauge", "HTTP requests in flight, by kind.")
	p.line("dormouse_http_requests_in_flight", float64(h.calls.inUse()), "kind", "call")
	p.line("dormouse_http_requests_in_flight", float64(h.waits.inUse()), "kind", "wait")
	p.line("dormouse_http_requests_in_flight", float64(h.streams.inUse()), "kind", "stream")
	p.head("dormouse_http_body_bytes", "gauge", "Bytes of requests' bodies in memory.")
	p.line("dormouse_http_body_bytes", float64(h.bodies.Used()))
	p.head("dormouse_answer_bytes", "gauge", "Bytes of memory that are reserved for large answers.")
	p.line("dormouse_answer_bytes", float64(h.server.answers.Used()))
	p.head("dormouse_spool_bytes", "gauge", "Bytes of messages and answers on disk.")
	p.line("dormouse_spool_bytes", float64(h.server.config.Spool.Used()))
	p.head("go_goroutines", "gauge", "Goroutines.")
	p.line("go_goroutines", float64(runtime.NumGoroutine()))
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	p.head("go_memstats_heap_inuse_bytes", "gauge", "Heap in use.")
	p.line("go_memstats_heap_inuse_bytes", float64(mem.HeapInuse))

	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write(text.Bytes()) // Write fails only if the client has disconnected
}

// sandboxStates counts the sandboxes of all owners by state. Every token may read these sums, because they do not reveal
// the owners of sandboxes.
func (h *HTTP) sandboxStates(r *http.Request) (map[sandbox.State]int, error) {
	states := map[sandbox.State]int{}
	if h.config.Sandboxes == nil {
		return states, nil
	}
	for ask := (sandbox.ListRequest{PageSize: sandbox.MaxPageSize}); ; {
		page, err := h.config.Sandboxes.List(sandbox.WithOwner(r.Context(), sandbox.Operator), ask)
		if err != nil {
			return nil, err
		}
		for _, s := range page.Sandboxes {
			states[s.State]++
		}
		if ask.PageToken = page.NextPageToken; ask.PageToken == "" {
			return states, nil
		}
	}
}
