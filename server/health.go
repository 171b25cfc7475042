package server

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
)

// readiness caches whether a sandbox could be created. /readyz needs no token, so it must be cheap to request.
type readiness struct {
	mu    sync.Mutex
	asked time.Time
	err   error
}

const (
	readinessMaxAge   = time.Second
	readinessPatience = 5 * time.Second
)

func (d *readiness) ask(s Sandboxes) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.asked.IsZero() || time.Since(d.asked) > readinessMaxAge {
		ctx, cancel := context.WithTimeout(context.Background(), readinessPatience)
		defer cancel()
		d.err = s.Ready(ctx)
		d.asked = time.Now()
	}
	return d.err
}

// serveReady serves /readyz. The answer does not include the reason, because the route needs no token. Clients with a
// token can read the reason at /v1/info.
func (h *HTTP) serveReady(w http.ResponseWriter, _ *http.Request) {
	switch {
	case h.stopping.Err() != nil:
		writeStatus(w, http.StatusServiceUnavailable, "stopping")
	case h.config.Sandboxes != nil && h.readiness.ask(h.config.Sandboxes) != nil:
		writeStatus(w, http.StatusServiceUnavailable, "not ready")
	default:
		writeStatus(w, http.StatusOK, "ready")
	}
}

func writeStatus(w http.ResponseWriter, code int, status string) {
	wire.WriteJSON(w, code, map[string]string{"status": status})
}
