package api

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// canonical returns a copy of the request with a path that http.ServeMux does not change.
//
// A ServeMux cleans paths and redirects to the result. For the files "a//b", ".." and "../x", it would redirect the client
// to another path, and the client would not get the error that explains why the name is invalid. So canonical unescapes each
// segment and escapes it again, so that nothing is left to clean. Everything after /files/, including slashes, becomes one
// segment. PathValue returns it byte for byte, and sandbox.ParsePath validates it.
func canonical(r *http.Request) *http.Request {
	raw := r.URL.RawPath // the path that the client sent; empty if it equals EscapedPath
	if raw == "" {
		raw = r.URL.EscapedPath()
	}
	segments := strings.Split(raw, "/")
	if len(segments) > 6 && segments[1] == "v1" && segments[2] == "sandboxes" && segments[4] == "files" {
		segments = append(segments[:5:5], strings.Join(segments[5:], "/"))
	}
	plain := make([]string, len(segments))
	for i, s := range segments {
		plain[i] = s
		if u, err := url.PathUnescape(s); err == nil {
			plain[i] = u
		}
		segments[i] = escapeSegment(plain[i])
	}
	req, u := *r, *r.URL
	u.Path, u.RawPath = strings.Join(plain, "/"), strings.Join(segments, "/")
	req.URL = &u
	return &req
}

// escapeSegment escapes one segment of a path. It also escapes "." and "..", which clients, proxies and ServeMux would
// otherwise remove.
func escapeSegment(s string) string {
	if s == "." || s == ".." {
		return strings.ReplaceAll(s, ".", "%2E")
	}
	return url.PathEscape(s)
}

// dispatch serves a request whose path is canonical. If no route matches, it answers with a JSON error, unlike ServeMux.
func (h *Handler) dispatch(w http.ResponseWriter, r *http.Request) {
	path := r.URL.RawPath
	if !strings.HasPrefix(path, "/") || strings.Contains(path, "//") {
		h.fail(w, r, unknownRoute(r))
		return
	}
	if _, pattern := h.mux.Handler(r); pattern != "" {
		h.mux.ServeHTTP(w, r)
		return
	}
	allowed := h.allowed(r)
	if len(allowed) == 0 {
		h.fail(w, r, unknownRoute(r))
		return
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	h.fail(w, r, &statusError{http.StatusMethodNotAllowed, sandbox.Errorf(sandbox.Invalid,
		"%q does not support %s: use %s", sandbox.Quote(r.URL.Path), sandbox.Quote(r.Method), strings.Join(allowed, " or "))})
}

// allowed returns the methods that the API has for the request's path.
func (h *Handler) allowed(r *http.Request) []string {
	var methods []string
	for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		probe := *r
		probe.Method = m
		if _, pattern := h.mux.Handler(&probe); pattern != "" {
			methods = append(methods, m)
		}
	}
	return methods
}

func unknownRoute(r *http.Request) error {
	hint := "GET /v1/ lists the routes"
	switch p := r.URL.Path; {
	case strings.HasSuffix(p, "/files/"):
		hint = "the name of a file is missing after /files/"
	case strings.Contains(p, "//"):
		hint = "the path has an empty segment (//)"
	case !strings.HasPrefix(p, "/v1/"):
		hint = "routes begin with /v1/, and " + hint
	}
	return sandbox.Errorf(sandbox.NotFound, "there is nothing at %q: %s", sandbox.Quote(r.URL.Path), hint)
}
