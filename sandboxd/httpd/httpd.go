// Package httpd runs an HTTP server until a context ends. The daemon uses it to serve its API on a unix socket, and
// `dormouse serve` uses it to serve MCP and the API on TCP. The caller's handler checks and routes the requests.
package httpd

import (
	"context"
	"crypto/tls"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Server is an HTTP server with the time limits that all our servers have.
type Server struct {
	Handler     http.Handler
	Log         *slog.Logger
	TLS         *tls.Config                                           // nil: plain HTTP
	ConnContext func(ctx context.Context, c net.Conn) context.Context // see http.Server; may be nil

	// OnStop is called when the context of Serve ends. It ends the streams and the long waits of the handler, and must not block.
	OnStop       func()
	StopPatience time.Duration // how long Serve waits for the requests in flight after OnStop has returned
}

// Serve serves l until ctx ends. It then calls OnStop, closes l, and waits up to StopPatience for the requests in flight.
// After that it closes their connections.
func (s Server) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler:           s.Handler,
		TLSConfig:         s.TLS,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       3 * time.Minute, // longer than clients' idle timeouts, so that clients close connections first
		MaxHeaderBytes:    64 << 10,
		ConnContext:       s.ConnContext,
		ErrorLog:          log.New(lineLogger{s.Log}, "", 0),
	}
	failed := make(chan error, 1)
	go func() {
		if s.TLS != nil {
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
	s.OnStop()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.StopPatience)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		s.Log.Warn("connections were closed before their requests ended", "waited", s.StopPatience, "err", err)
		server.Close()
	}
	<-failed
	return nil
}

// lineLogger logs the lines of net/http's logger. It quotes them, because they may contain input from unknown clients.
type lineLogger struct{ log *slog.Logger }

func (l lineLogger) Write(p []byte) (int, error) {
	l.log.Debug("http", "text", strconv.QuoteToASCII(sandbox.Quote(strings.TrimSpace(string(p)))))
	return len(p), nil
}
