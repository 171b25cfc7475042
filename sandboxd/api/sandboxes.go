package api

import (
	"net/http"
	"net/url"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
)

func (h *Handler) createSandbox(w http.ResponseWriter, r *http.Request) error {
	var req sandbox.CreateRequest
	if err := readJSON(w, r, maxSmallBody, &req); err != nil {
		return err
	}
	if err := req.Validate(); err != nil {
		return err
	}
	s, err := h.sandboxes.Create(r.Context(), req)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/v1/sandboxes/"+url.PathEscape(string(s.ID)))
	wire.WriteJSON(w, http.StatusCreated, s)
	return nil
}

func (h *Handler) listSandboxes(w http.ResponseWriter, r *http.Request) error {
	q, err := params(r, "state", "page_size", "page_token")
	if err != nil {
		return err
	}
	size, err := q.integer("page_size", 0, 0, sandbox.MaxPageSize)
	if err != nil {
		return err
	}
	req := sandbox.ListRequest{PageSize: int(size), PageToken: q["page_token"]}
	if s := q["state"]; s != "" {
		if req.State, err = sandbox.ParseState(s); err != nil {
			return err
		}
	}
	page, err := h.sandboxes.List(r.Context(), req)
	if err != nil {
		return err
	}
	if page.Sandboxes == nil {
		page.Sandboxes = []sandbox.Sandbox{}
	}
	wire.WriteJSON(w, http.StatusOK, page)
	return nil
}

func (h *Handler) getSandbox(w http.ResponseWriter, r *http.Request) error {
	if _, err := params(r); err != nil {
		return err
	}
	s, err := h.sandboxes.Get(r.Context(), r.PathValue("sandbox"))
	if err != nil {
		return err
	}
	wire.WriteJSON(w, http.StatusOK, s)
	return nil
}

func (h *Handler) updateSandbox(w http.ResponseWriter, r *http.Request) error {
	var req sandbox.UpdateRequest
	if err := readJSON(w, r, maxSmallBody, &req); err != nil {
		return err
	}
	if err := req.Validate(); err != nil {
		return err
	}
	s, err := h.sandboxes.Update(r.Context(), r.PathValue("sandbox"), req)
	if err != nil {
		return err
	}
	wire.WriteJSON(w, http.StatusOK, s)
	return nil
}

func (h *Handler) deleteSandbox(w http.ResponseWriter, r *http.Request) error {
	if _, err := params(r); err != nil {
		return err
	}
	if err := h.sandboxes.Delete(r.Context(), r.PathValue("sandbox")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
