package server

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	mcpserver "github.com/mark3labs/mcp-go/server"
	"golang.org/x/time/rate"

	"github.com/dormouse-sandbox/dormouse/sandboxd/httpd"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
)

// Sandboxes is the part of the daemon that the HTTP server itself uses, for /readyz and /metrics.
type Sandboxes interface {
	// Ready returns nil if a sandbox could be created.
	Ready(ctx context.Context) error
	List(ctx context.Context, r sandbox.ListRequest) (sandbox.Page, error)
}

// HTTPConfig configures an [HTTP] server. A limit of zero means its default.
type HTTPConfig struct {
	Address      string       // the listen address, host:port
	Tokens       []Token      // the valid tokens; at least one if TokenFile is nil; ignored otherwise
	TokenFile    *TokenFile   // the valid tokens, read from a file that may change; nil: use Tokens
	AllowHosts   []string     // host names of this server in addition to the loopback names and the listen address
	AllowOrigins []string     // origins of web pages that may call the server
	TLS          *tls.Config  // nil: plain HTTP
	SSE          bool         // also serve the SSE transport of protocol version 2024-11-05: /sse and /message
	API          http.Handler // the REST API below /v1/; nil: not served
	Sandboxes    Sandboxes    // the daemon, for /readyz and /metrics; nil: the server is always ready and counts no sandboxes
	Metrics      *Metrics     // nil: the server makes its own
	OnDrain      func()       // called by [HTTP.Drain], to end long waits outside the server; may be nil

	MaxBody int64 // the maximum size of an MCP message, in bytes; zero: Config.MaxMessageBytes
	// BodiesBytes is the maximum size of all bodies in memory. An owner other than the operator may use three quarters of it.
	// Zero: 128 MiB, or three times MaxBody without a spool.
	BodiesBytes  int64
	BodyPatience time.Duration // how far a body may be behind the rate slowestBody before it is refused; zero: 30 s
	Queue        time.Duration // how long a request waits for a slot before it is refused; zero: 5 s
	// MaxRequests is the maximum number of requests at once, except streams, requests of /metrics, and the requests that
	// MaxWaits limits; zero: 256.
	MaxRequests int
	// MaxWaits is the maximum number of requests at once that wait longer than a second for an execution; zero: 2048.
	MaxWaits     int
	MaxStreams   int           // the maximum number of streams at once; zero: 256
	Rate         float64       // the maximum number of requests a second for each token; zero: no limit
	MaxConns     int           // the maximum number of connections at once; zero: 4096
	StopPatience time.Duration // how long Serve waits for the requests in flight when it stops; zero: 10 s
}

// maxScrapes is the maximum number of requests for /metrics in flight. They have their own slots, so that a server whose
// other slots are all in use can still be monitored.
const maxScrapes = 16

// HTTP serves MCP and the v1 API over HTTP. It is an http.Handler; its ServeHTTP checks every request (guard.go).
type HTTP struct {
	config     HTTPConfig
	server     *Server
	log        *slog.Logger
	names      names
	bodies     *wire.Budget
	rates      *rates
	calls      *slots
	waits      *slots
	streams    *slots
	scrapes    *slots // requests for /metrics
	streamable *mcpserver.StreamableHTTPServer
	readiness  readiness

	stopping context.Context
	stop     context.CancelFunc

	mu  sync.Mutex
	sse map[string]*sseStream // the open SSE streams by session id
}

// NewHTTP returns a server that offers s over HTTP.
func NewHTTP(s *Server, c HTTPConfig) (*HTTP, error) {
	if len(c.Tokens) == 0 && c.TokenFile == nil {
		return nil, errors.New("an HTTP server needs a token")
	}
	allowed, err := newNames(c.Address, c.TLS != nil, c.AllowHosts, c.AllowOrigins)
	if err != nil {
		return nil, err
	}
	c.defaults(s)
	h := &HTTP{
		config: c, server: s, log: s.log, names: allowed,
		bodies:  wire.NewBudget(c.BodiesBytes),
		rates:   &rates{perSecond: c.Rate, byName: map[string]*rate.Limiter{}},
		calls:   newSlots(c.MaxRequests, c.Queue),
		waits:   newSlots(c.MaxWaits, 0),
		streams: newSlots(c.MaxStreams, 0),
		scrapes: newSlots(maxScrapes, c.Queue),
		sse:     map[string]*sseStream{},
	}
	h.streamable = newStreamable(s)
	h.stopping, h.stop = context.WithCancel(context.Background())
	return h, nil
}

func (c *HTTPConfig) defaults(s *Server) {
	orDefault := func(n *int, d int) {
		if *n == 0 {
			*n = d
		}
	}
	orDefault(&c.MaxRequests, 256)
	orDefault(&c.MaxWaits, 2048)
	orDefault(&c.MaxStreams, 256)
	orDefault(&c.MaxConns, 4096)
	if c.MaxBody == 0 {
		c.MaxBody = int64(s.config.MaxMessageBytes)
	}
	if c.BodiesBytes == 0 {
		c.BodiesBytes = 3 * c.MaxBody
		if s.config.Spool != nil {
			c.BodiesBytes = defaultRequestBytes(s.config)
		}
	}
	if c.BodyPatience == 0 {
		c.BodyPatience = 30 * time.Second
	}
	if c.Queue == 0 {
		c.Queue = 5 * time.Second
	}
	if c.StopPatience == 0 {
		c.StopPatience = 10 * time.Second
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics("")
	}
}

// servePublic serves r if its route needs no token, and reports whether it did.
func (h *HTTP) servePublic(w *response, r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	switch r.URL.EscapedPath() {
	case "/healthz":
		writeStatus(w, http.StatusOK, "ok")
	case "/readyz":
		h.serveReady(w, r)
	default:
		return false
	}
	return true
}

func (h *HTTP) route(w *response, r *http.Request) {
	switch p := r.URL.Path; {
	case p == "/mcp":
		h.serveStreamable(w, r)
	case p == "/sse" && h.config.SSE:
		h.serveSSE(w, r)
	case p == "/message" && h.config.SSE:
		h.serveMessage(w, r)
	case p == "/metrics":
		h.serveMetrics(w, r)
	case strings.HasPrefix(p, "/v1/") && h.config.API != nil:
		h.config.API.ServeHTTP(w, r)
	case p == "/sse":
		fail(w, http.StatusNotFound, "not_found", "the SSE transport is off: use /mcp, or start dormouse serve with --sse")
	default:
		fail(w, http.StatusNotFound, "not_found", "no such route: MCP is at /mcp, and the REST API at /v1/")
	}
}

// Serve serves l until ctx ends, and closes l. Then it calls Drain and waits up to StopPatience for the requests in
// flight. Executions continue.
func (h *HTTP) Serve(ctx context.Context, l net.Listener) error {
	return httpd.Server{
		Handler: h, Log: h.log, TLS: h.config.TLS, ConnContext: withConn,
		OnStop: h.Drain, StopPatience: h.config.StopPatience,
	}.Serve(ctx, newConns(l, h.config.MaxConns))
}

// Drain ends all streams, refuses new ones, and calls OnDrain, which should end the waits for executions.
func (h *HTTP) Drain() {
	h.stop()
	if h.config.OnDrain != nil {
		h.config.OnDrain()
	}
}
