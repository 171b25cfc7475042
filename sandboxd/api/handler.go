package api

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
)

// Handler serves the v1 API.
type Handler struct {
	sandboxes Sandboxes
	info      func(context.Context) Info
	log       *slog.Logger
	mux       *http.ServeMux
	docs      []byte
	answers   *wire.Budget // memory for the answers to requests whose context has no budget

	stopping context.Context // ends when Drain is called
	drain    context.CancelFunc
}

// NewHandler returns a handler that exposes s. It calls info for each request for /v1/info.
func NewHandler(s Sandboxes, info func(context.Context) Info, log *slog.Logger) *Handler {
	h := &Handler{sandboxes: s, info: info, log: log, mux: http.NewServeMux(), docs: renderDocs(), answers: wire.NewBudget(wire.AnswerBytes)}
	h.stopping, h.drain = context.WithCancel(context.Background())
	for _, r := range h.routes() {
		h.mux.HandleFunc(r.pattern, func(w http.ResponseWriter, req *http.Request) {
			if err := r.serve(w, req); err != nil {
				h.fail(w, req, err)
			}
		})
	}
	return h
}

// Drain ends all streams and all waits for executions, with an error that the daemon is stopping. Streams and waits that
// begin later end at once. Other requests are not affected.
func (h *Handler) Drain() { h.drain() }

// route is one route of the API.
type route struct {
	pattern string // a pattern of http.ServeMux
	serve   func(http.ResponseWriter, *http.Request) error
}

// routes returns all routes of the API. A file's path matches the single segment {path}, because [canonical] escapes the
// slashes in it.
func (h *Handler) routes() []route {
	return []route{
		{"POST /v1/sandboxes", h.createSandbox},
		{"GET /v1/sandboxes", h.listSandboxes},
		{"GET /v1/sandboxes/{sandbox}", h.getSandbox},
		{"PATCH /v1/sandboxes/{sandbox}", h.updateSandbox},
		{"DELETE /v1/sandboxes/{sandbox}", h.deleteSandbox},

		{"POST /v1/sandboxes/{sandbox}/executions", h.execute},
		{"GET /v1/executions", h.findExecution},
		{"GET /v1/executions/{execution}", h.getExecution},
		{"GET /v1/executions/{execution}/events", h.followExecution},
		{"POST /v1/executions/{execution}/interrupt", h.interruptExecution},

		{"GET /v1/sandboxes/{sandbox}/files", h.listFiles},
		{"PUT /v1/sandboxes/{sandbox}/files/{path}", h.writeFile},
		{"GET /v1/sandboxes/{sandbox}/files/{path}", h.readFile},

		{"GET /v1/info", h.getInfo},
		{"GET /v1/openapi.json", h.getOpenAPI},
		{"GET /v1/{$}", h.getDocs},
		{"GET /healthz", h.healthy},
		{"GET /readyz", h.ready},
	}
}

func (h *Handler) getInfo(w http.ResponseWriter, r *http.Request) error {
	if _, err := params(r); err != nil {
		return err
	}
	wire.WriteJSON(w, http.StatusOK, h.info(r.Context()))
	return nil
}

// healthy serves /healthz: it answers whenever the daemon runs. In contrast, ready answers with an error if no sandbox could
// be created.
func (h *Handler) healthy(w http.ResponseWriter, _ *http.Request) error {
	wire.WriteJSON(w, http.StatusOK, Status{Status: "ok"})
	return nil
}

func (h *Handler) ready(w http.ResponseWriter, r *http.Request) error {
	if err := h.sandboxes.Ready(r.Context()); err != nil {
		if sandbox.KindOf(err) == sandbox.Internal {
			err = sandbox.Errorf(sandbox.Unavailable, "the daemon is not ready; its log has the reason").WithCause(err)
		}
		return err
	}
	wire.WriteJSON(w, http.StatusOK, Status{Status: "ready"})
	return nil
}
