package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	mcpserver "github.com/mark3labs/mcp-go/server"
	"golang.org/x/time/rate"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
)

// Sandboxes is what the server itself asks of the daemon.
type Sandboxes interface {
	// Ready returns nil when a sandbox could be created.
	Ready(ctx context.Context) error
	List(ctx context.Context, r sandbox.ListRequest) (sandbox.Page, error)
}

// HTTPConfig is what an HTTP server needs beyond MCP. Limits may be zero.
type HTTPConfig struct {
	Address      string       // host:port that it listens on
	Tokens       []Token      // of those who may talk; at least one, if there is no TokenFile
	TokenFile    *TokenFile   // the same, from a file that may change
	AllowHosts   []string     // names of this server besides the usual ones
	AllowOrigins []string     // of web pages that may call it
	TLS          *tls.Config  // nil: plain HTTP
	SSE          bool         // also the transport of 2024-11-05: /sse and /message
	API          http.Handler // REST /v1
	Sandboxes    Sandboxes    // for /readyz and /metrics
	Metrics      *Metrics     // nil: only what the sandboxes tell
	OnDrain      func()       // ends what waits for long elsewhere, when the server stops

	MaxBody      int64         // of a message; zero: as the MCP server has it
	BodiesBytes  int64         // of all bodies in memory; zero: 128 MiB, or three times MaxBody if there is no spool; a named token may have three quarters
	BodyPatience time.Duration // with a body that trickles; zero: 30 s
	Queue        time.Duration // how long a request waits for others before it is refused; zero: 5 s
	MaxRequests  int           // at once, without those that MaxWaits limits; zero: 256
	MaxWaits     int           // requests at once that wait for an execution for more than a second; zero: 2048
	MaxStreams   int           // at once; zero: 256
	Rate         float64       // requests a second, of a token; zero: as many as it wants
	MaxConns     int           // connections at once; zero: 4096
	StopPatience time.Duration // with requests that are being answered at the end; zero: 10 s
}

// maxScrapes is how many requests for /metrics may be in flight at once. They have slots of their own, so that a busy server can be monitored.
const maxScrapes = 16

// HTTP is an MCP server and the v1 API behind one guard (guard.go).
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
	sse map[string]*sseStream // by session id
}

// NewHTTP returns a server that offers s over HTTP. It is an http.Handler, too.
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
		rates:   &rates{each: c.Rate, byName: map[string]*rate.Limiter{}},
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

// public serves the routes that need no token, and says whether r was for one.
func (h *HTTP) public(w *response, r *http.Request) bool {
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
		fail(w, http.StatusNotFound, "not_found", "there is nothing here: MCP is at /mcp, and the REST API at /v1/")
	}
}

// Serve serves l until ctx ends, and then lets those who are being answered finish:
// waits and streams end at once, executions go on. It closes l.
func (h *HTTP) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler:           h,
		TLSConfig:         h.config.TLS,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       3 * time.Minute, // more than clients', so that they are the ones to close
		MaxHeaderBytes:    64 << 10,
		ConnContext:       withConn,
		ErrorLog:          log.New(lineLogger{h.log}, "", 0),
	}
	l = newConns(l, h.config.MaxConns)
	failed := make(chan error, 1)
	go func() {
		if h.config.TLS != nil {
			failed <- server.ServeTLS(l, "", "")
		} else {
			failed <- server.Serve(l)
		}
	}()
	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	h.Drain()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.config.StopPatience)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		h.log.Warn("requests were cut off", "err", err)
		server.Close()
	}
	<-failed
	return nil
}

// Drain ends what may last for long: streams, and waits for executions.
func (h *HTTP) Drain() {
	h.stop()
	if h.config.OnDrain != nil {
		h.config.OnDrain()
	}
}

// lineLogger takes the lines that net/http logs, which may quote what a stranger sent.
type lineLogger struct{ log *slog.Logger }

func (l lineLogger) Write(p []byte) (int, error) {
	l.log.Debug("http", "text", fmt.Sprintf("%+.500q", strings.TrimSpace(string(p))))
	return len(p), nil
}
