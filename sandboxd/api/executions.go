package api

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
)

func (h *Handler) execute(w http.ResponseWriter, r *http.Request) error {
	var req sandbox.ExecuteRequest
	if err := readJSON(w, r, maxExecuteBody, &req); err != nil {
		return err
	}
	if err := req.Validate(""); err != nil {
		return err
	}
	if err := validateWindow(req.Window); err != nil {
		return err
	}
	return h.untilDrain(r, func(ctx context.Context) error {
		req.WaitSeconds = wire.WaitAllowed(ctx, req.WaitSeconds)
		x, err := h.sandboxes.Execute(ctx, r.PathValue("sandbox"), req)
		if err != nil {
			return err
		}
		w.Header().Set("Location", "/v1/executions/"+url.PathEscape(string(x.ID)))
		wire.WriteJSON(w, http.StatusCreated, x)
		return nil
	})
}

func (h *Handler) findExecution(w http.ResponseWriter, r *http.Request) error {
	q, err := params(r, "request_id")
	if err != nil {
		return err
	}
	id := q["request_id"]
	if id == "" {
		return sandbox.Errorf(sandbox.Invalid, "request_id is missing: this route finds the execution with a request_id, and does not list executions")
	}
	if err := sandbox.ValidateRequestID(id); err != nil {
		return err
	}
	x, err := h.sandboxes.FindExecution(r.Context(), id)
	if err != nil {
		return err
	}
	wire.WriteJSON(w, http.StatusOK, x)
	return nil
}

func (h *Handler) getExecution(w http.ResponseWriter, r *http.Request) error {
	q, err := params(r, "wait_seconds", "offset", "head", "tail")
	if err != nil {
		return err
	}
	wait, err := q.wait()
	if err != nil {
		return err
	}
	window, err := q.window()
	if err != nil {
		return err
	}
	return h.untilDrain(r, func(ctx context.Context) error {
		x, err := h.withOutput(ctx, r.PathValue("execution"), wire.WaitAllowed(ctx, wait), window)
		if err != nil {
			return err
		}
		wire.WriteJSON(w, http.StatusOK, x)
		return nil
	})
}

// outputPatience is how long a large answer waits for memory that other answers use.
const outputPatience = 20 * time.Second

// withOutput returns an execution with a window of its output. If the window may be large, it first gets the size of the
// output and reserves memory for it, so that neither the guest nor this process builds the answer before there is memory.
func (h *Handler) withOutput(ctx context.Context, id string, wait float64, w sandbox.Window) (sandbox.Execution, error) {
	size := int64(w.Head) + int64(w.Tail)
	if size == 0 {
		size = sandbox.MaxOutputBytes + sandbox.TailBytes
	}
	if size <= wire.SmallAnswer {
		return h.sandboxes.GetExecution(ctx, id, wait, w)
	}
	x, err := h.sandboxes.GetExecution(ctx, id, wait, sandbox.NoOutput)
	if err != nil {
		return x, err
	}
	if !wire.WorkAllowed(ctx) { // after its wait, the request needs a slot among the working requests to read the output
		return x, sandbox.Errorf(sandbox.Limit, "the server has too many requests at work to read the output of execution %s now: ask for it again in a moment", x.ID)
	}
	if err := wire.Reserve(ctx, min(size, x.OutputBytes-w.Offset), outputPatience); err != nil {
		return x, err
	}
	return h.sandboxes.GetExecution(ctx, id, 0, w)
}

func (h *Handler) interruptExecution(w http.ResponseWriter, r *http.Request) error {
	if _, err := params(r); err != nil {
		return err
	}
	x, err := h.sandboxes.Interrupt(r.Context(), r.PathValue("execution"))
	if err != nil {
		return err
	}
	wire.WriteJSON(w, http.StatusOK, x)
	return nil
}
