package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Create creates a sandbox.
func (c *Client) Create(ctx context.Context, r sandbox.CreateRequest) (s sandbox.Sandbox, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/sandboxes", nil, r, maxAnswer, &s)
	return s, err
}

// Get returns a sandbox.
func (c *Client) Get(ctx context.Context, name string) (s sandbox.Sandbox, err error) {
	path, err := sandboxPath(name)
	if err != nil {
		return s, err
	}
	err = c.call(ctx, http.MethodGet, path, nil, nil, maxAnswer, &s)
	return s, err
}

// List returns one page of sandboxes.
func (c *Client) List(ctx context.Context, r sandbox.ListRequest) (p sandbox.Page, err error) {
	const maxToken = 4 << 10
	if len(r.PageToken) > maxToken { // no valid token is this long, and the daemon would break off a request with far longer headers
		return p, sandbox.Errorf(sandbox.Invalid, "page_token is not valid: use the next_page_token of the previous page")
	}
	q := url.Values{}
	setInt(q, "page_size", int64(r.PageSize))
	if r.State != "" {
		q.Set("state", string(r.State))
	}
	if r.PageToken != "" {
		q.Set("page_token", r.PageToken)
	}
	err = c.call(ctx, http.MethodGet, "/v1/sandboxes", q, nil, maxAnswer, &p)
	return p, err
}

// Update changes the TTL or the display name of a sandbox.
func (c *Client) Update(ctx context.Context, name string, r sandbox.UpdateRequest) (s sandbox.Sandbox, err error) {
	path, err := sandboxPath(name)
	if err != nil {
		return s, err
	}
	err = c.call(ctx, http.MethodPatch, path, nil, r, maxAnswer, &s)
	return s, err
}

// Delete deletes a sandbox.
func (c *Client) Delete(ctx context.Context, name string) error {
	path, err := sandboxPath(name)
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodDelete, path, nil, nil, maxAnswer, nil)
}

// Execute runs code in a sandbox. It returns when the execution is final or r.WaitSeconds have passed.
func (c *Client) Execute(ctx context.Context, name string, r sandbox.ExecuteRequest) (x sandbox.Execution, err error) {
	// The daemon checks the request again. It must be checked here too, because encoding/json would replace invalid UTF-8 in
	// the code, and because the daemon ends the connection while the client sends code that is far too long.
	if err := r.Validate(""); err != nil {
		return x, err
	}
	path, err := sandboxPath(name, "/executions")
	if err != nil {
		return x, err
	}
	err = c.call(ctx, http.MethodPost, path, nil, r, maxExecutionAnswer, &x)
	return x, err
}

// FindExecution returns the execution that was started by the request with this request id.
func (c *Client) FindExecution(ctx context.Context, requestID string) (x sandbox.Execution, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/executions", url.Values{"request_id": {requestID}}, nil, maxExecutionAnswer, &x)
	return x, err
}

// GetExecution returns an execution and a window of its output. It waits up to waitSeconds for the execution's end.
func (c *Client) GetExecution(ctx context.Context, id string, waitSeconds float64, w sandbox.Window) (x sandbox.Execution, err error) {
	path, err := executionPath(id)
	if err != nil {
		return x, err
	}
	q := url.Values{}
	if waitSeconds != 0 {
		q.Set("wait_seconds", strconv.FormatFloat(waitSeconds, 'g', -1, 64))
	}
	setInt(q, "offset", w.Offset)
	setInt(q, "head", int64(w.Head))
	setInt(q, "tail", int64(w.Tail))
	err = c.call(ctx, http.MethodGet, path, q, nil, maxExecutionAnswer, &x)
	return x, err
}

// Interrupt interrupts an execution and returns it when it has stopped.
func (c *Client) Interrupt(ctx context.Context, id string) (x sandbox.Execution, err error) {
	path, err := executionPath(id, "/interrupt")
	if err != nil {
		return x, err
	}
	err = c.call(ctx, http.MethodPost, path, nil, nil, maxExecutionAnswer, &x)
	return x, err
}
