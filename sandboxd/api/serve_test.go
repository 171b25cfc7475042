package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/api"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestBadRequests checks that each invalid request is answered with a JSON error that explains what is wrong.
func TestBadRequests(t *testing.T) {
	m := newMemory(t)
	h := handler(m)
	s, err := m.Create(t.Context(), sandbox.CreateRequest{DisplayName: "s"})
	must(t, err)
	x, err := m.Execute(t.Context(), "s", sandbox.ExecuteRequest{Code: "sleep", TimeoutSeconds: new(1)})
	must(t, err)
	exec := "/v1/executions/" + string(x.ID)
	for _, tt := range []struct {
		name, method, path, body string
		status                   int
		want                     string
	}{
		{"unknown route", "GET", "/v2/sandboxes", "", 404, "routes begin with /v1/"},
		{"root", "GET", "/", "", 404, "GET /v1/"},
		{"unknown route in v1", "GET", "/v1/sandbox", "", 404, "GET /v1/ lists the routes"},
		{"double slash", "GET", "/v1//sandboxes", "", 404, "empty segment"},
		{"two slashes before", "GET", "//v1/info", "", 404, "empty segment"},
		{"dots", "GET", "/v1/../v1/info", "", 404, "nothing at"},
		{"trailing slash", "GET", "/v1/sandboxes/", "", 404, "nothing at"},
		{"wrong method", "DELETE", "/v1/sandboxes", "", 405, "use GET or POST"},
		{"PUT without a file", "PUT", "/v1/sandboxes/s/files", "", 405, "use GET"},
		{"strange method", "BREW", "/v1/info", "", 405, "use GET"},

		{"unknown sandbox", "GET", "/v1/sandboxes/" + string(sandbox.NewID()), "", 404, "no sandbox"},
		{"hostile sandbox", "GET", "/v1/sandboxes/%2e%2e%2f%00", "", 404, "no sandbox"},
		{"unknown execution", "GET", "/v1/executions/exec_x", "", 404, "no execution"},

		{"page_size of 0", "GET", "/v1/sandboxes?page_size=0", "", 200, ""},
		{"page_size of 101", "GET", "/v1/sandboxes?page_size=101", "", 400, "0 to 100"},
		{"page_size of -1", "GET", "/v1/sandboxes?page_size=-1", "", 400, "0 to 100"},
		{"page_size of 1e9", "GET", "/v1/sandboxes?page_size=1e9", "", 400, "whole number"},
		{"empty page_size", "GET", "/v1/sandboxes?page_size=", "", 400, "whole number"},
		{"unknown state", "GET", "/v1/sandboxes?state=dead", "", 400, "not a state"},
		{"foreign page_token", "GET", "/v1/sandboxes?page_token=%00", "", 400, "none of ours"},
		{"unknown parameter", "GET", "/v1/sandboxes?limit=3", "", 400, "use state, page_size, page_token"},
		{"parameter where there are none", "GET", "/v1/sandboxes/s?x=1", "", 400, "this route has none"},
		{"parameter given twice", "GET", "/v1/sandboxes?state=running&state=running", "", 400, "given 2 times"},
		{"unreadable query", "GET", "/v1/sandboxes?state=%zz", "", 400, "cannot be parsed"},
		{"wait of -1", "GET", exec + "?wait_seconds=-1", "", 400, "0 to 300"},
		{"wait of 301", "GET", exec + "?wait_seconds=301", "", 400, "0 to 300"},
		{"wait of NaN", "GET", exec + "?wait_seconds=NaN", "", 400, "0 to 300"},
		{"wait of tomorrow", "GET", exec + "?wait_seconds=tomorrow", "", 400, "not a number"},
		{"offset of -1", "GET", exec + "?offset=-1", "", 400, "offset"},
		{"huge offset", "GET", exec + "?offset=99999999999999999999", "", 400, "offset"},
		{"from of x", "GET", exec + "/events?from=x", "", 400, "from"},
		{"no request_id", "GET", "/v1/executions", "", 400, "request_id is missing"},
		{"bad request_id", "GET", "/v1/executions?request_id=%0a", "", 400, "printable"},

		{"no body", "POST", "/v1/sandboxes", "", 400, "no body"},
		{"no JSON", "POST", "/v1/sandboxes", "x", 400, "body is not valid"},
		{"list", "POST", "/v1/sandboxes", "[]", 400, "body is not valid"},
		{"unknown field", "POST", "/v1/sandboxes", `{"mounts":["/"]}`, 400, "mounts"},
		{"two values", "POST", "/v1/sandboxes", `{} {}`, 400, "continues after"},
		{"large body", "POST", "/v1/sandboxes", `{"display_name":"` + strings.Repeat("x", 70<<10) + `"}`, 400, "limit"},
		{"ttl of tomorrow", "POST", "/v1/sandboxes", `{"ttl":"tomorrow"}`, 400, "not a duration"},
		{"ttl of 15 days", "POST", "/v1/sandboxes", `{"ttl":"15d"}`, 400, "14 days"},
		{"unknown language", "POST", "/v1/sandboxes", `{"language":"cobol"}`, 400, "no kernel"},
		{"display_name like an id", "POST", "/v1/sandboxes", `{"display_name":"sbx_x"}`, 400, "display_name"},
		{"request_id that is not ASCII, in a create request", "POST", "/v1/sandboxes", `{"request_id":"é"}`, 400, "printable ASCII"},
		{"fork with its own limits", "POST", "/v1/sandboxes", `{"fork_of":"s","memory_mb":512}`, 400, "leave them out"},
		{"new display_name with a line break", "PATCH", "/v1/sandboxes/s", `{"display_name":"a\nb"}`, 400, "display_name"},
		{"nothing to change", "PATCH", "/v1/sandboxes/s", `{}`, 400, "nothing to change"},
		{"ttl of 0", "PATCH", "/v1/sandboxes/s", `{"ttl":0}`, 400, "out of range"},
		{"empty code", "POST", "/v1/sandboxes/s/executions", `{"code":" "}`, 400, "code is empty"},
		{"10 MB code", "POST", "/v1/sandboxes/s/executions", `{"code":"` + strings.Repeat("x", 10<<20) + `"}`, 400, "limit"},
		{"NUL in code", "POST", "/v1/sandboxes/s/executions", `{"code":"a\u0000"}`, 400, "NUL"},
		{"timeout of 1e9", "POST", "/v1/sandboxes/s/executions", `{"code":"1","timeout_seconds":1000000000}`, 400, "out of range"},
		{"timeout of 1.5", "POST", "/v1/sandboxes/s/executions", `{"code":"1","timeout_seconds":1.5}`, 400, "timeout_seconds"},
		{"timeout of 0", "POST", "/v1/sandboxes/s/executions", `{"code":"1","timeout_seconds":0}`, 400, "out of range"},
		{"unknown language, in an execute request", "POST", "/v1/sandboxes/s/executions", `{"code":"1","language":"cobol"}`, 400, "no kernel"},
		{"negative wait, in an execute request", "POST", "/v1/sandboxes/s/executions", `{"code":"1","wait_seconds":-1}`, 400, "0 to 300"},
		{"request_id that is not ASCII, in an execute request", "POST", "/v1/sandboxes/s/executions", `{"code":"1","request_id":"é"}`, 400, "printable ASCII"},
		{"negative head", "POST", "/v1/sandboxes/s/executions", `{"code":"1","head":-1}`, 400, "head"},
		{"negative offset", "POST", "/v1/sandboxes/s/executions", `{"code":"1","offset":-1}`, 400, "offset"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := raw(t, h, tt.method, tt.path, tt.body)
			if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.want) || !json.Valid(w.Body.Bytes()) {
				t.Errorf("%s %s = %d %.500s, want %d and %q", tt.method, tt.path, w.Code, w.Body, tt.status, tt.want)
			}
			if w.Code == 405 && w.Header().Get("Allow") == "" {
				t.Error("405 without Allow")
			}
			if w.Header().Get("Location") != "" {
				t.Errorf("Location = %s", w.Header().Get("Location"))
			}
		})
	}
	_, err = m.Get(t.Context(), string(s.ID)) // the bad requests have not changed the sandbox
	must(t, err)

	for name, header := range map[string]string{"form": "Content-Type: application/x-www-form-urlencoded", "text": "Content-Type: text/plain", "gzip": "Content-Encoding: gzip"} {
		t.Run(name, func(t *testing.T) {
			w := raw(t, h, "POST", "/v1/sandboxes", "{}", header)
			equal(t, "status", w.Code, 415)
		})
	}
}

type panicking struct{ api.Sandboxes }

func (panicking) Get(context.Context, string) (sandbox.Sandbox, error) { panic("the secret") }

// TestPanic checks that after a panic the client gets only an id, and that the log has the id and the details.
func TestPanic(t *testing.T) {
	var log bytes.Buffer
	h := api.NewHandler(panicking{}, nil, slog.New(slog.NewJSONHandler(&log, nil)))
	w := raw(t, h, "GET", "/v1/sandboxes/x", "")
	var body struct{ Error sandbox.Error }
	must(t, json.Unmarshal(w.Body.Bytes(), &body))
	id := body.Error.Message[strings.LastIndex(body.Error.Message, " ")+1:]
	if w.Code != 500 || strings.Contains(w.Body.String(), "secret") {
		t.Errorf("answer = %d %s, want 500 and no detail", w.Code, w.Body)
	}
	for _, want := range []string{"the secret", id, "serve_test.go"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log = %s, want %q in it", log.String(), want)
		}
	}
}

// TestRequestLog checks that the log contains sizes but no content of requests, and that each record is one line.
func TestRequestLog(t *testing.T) {
	var log bytes.Buffer
	m := newMemory(t)
	h := api.NewHandler(m, nil, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	_, err := m.Create(t.Context(), sandbox.CreateRequest{DisplayName: "canary-name"})
	must(t, err)
	raw(t, h, "POST", "/v1/sandboxes/canary-name/executions", `{"code":"echo canary-code"}`)
	raw(t, h, "GET", "/v1/sandboxes/canary%0a%1b", "")
	if got := log.String(); strings.Contains(got, "canary") || strings.Count(got, "\n") != 2 || !strings.Contains(got, "bytes_in=27") || strings.Contains(got, "\x1b") {
		t.Errorf("log = %q, want two lines with sizes and no canary", got)
	}
}
