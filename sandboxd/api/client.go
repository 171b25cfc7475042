package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
)

// The maximum sizes of answers, in bytes. An execution's answer may contain all output that was kept.
const (
	maxAnswer          = 16 * sandbox.MiB
	maxFileListAnswer  = 256 * sandbox.MiB
	maxExecutionAnswer = 6*(sandbox.MaxOutputBytes+sandbox.TailBytes) + 2*sandbox.MaxRichBytes
)

// Client is a client of the v1 API. Its methods may be called concurrently.
type Client struct{ http *http.Client }

var _ Sandboxes = (*Client)(nil)

// Dial returns a client for the daemon at a unix socket. The client connects when it is first used.
func Dial(socket string) *Client {
	return DialBy(func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	})
}

// DialBy returns a client that calls dial for each new connection. If dial fails with a *net.OpError whose Op is "dial", the
// client returns an error that wraps [ErrNotRunning], unless permission was denied.
func DialBy(dial func(context.Context) (net.Conn, error)) *Client {
	t := &http.Transport{
		DialContext:           func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		MaxIdleConns:          256,
		MaxIdleConnsPerHost:   256,
		IdleConnTimeout:       time.Minute, // less than the server's IdleTimeout, so that the client closes idle connections first
		DisableCompression:    true,
		ExpectContinueTimeout: 10 * time.Second,
		WriteBufferSize:       64 << 10,
		ReadBufferSize:        64 << 10,
	}
	return &Client{&http.Client{
		Transport: t,
		// The API never redirects, so a redirect comes from another server and is not followed.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close closes idle connections. The client can still be used.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

// Healthy returns nil if the daemon answers.
func (c *Client) Healthy(ctx context.Context) error {
	return c.call(ctx, http.MethodGet, "/healthz", nil, nil, maxAnswer, nil)
}

// Ready returns nil if a sandbox could be created.
func (c *Client) Ready(ctx context.Context) error {
	return c.call(ctx, http.MethodGet, "/readyz", nil, nil, maxAnswer, nil)
}

// Info returns a description of the daemon.
func (c *Client) Info(ctx context.Context) (info Info, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/info", nil, nil, maxAnswer, &info)
	return info, err
}

// call sends a request and decodes the answer, of at most limit bytes. in, if not nil, is encoded as the JSON body. out, if
// not nil, receives the answer.
func (c *Client) call(ctx context.Context, method, path string, q url.Values, in any, limit int64, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return sandbox.Errorf(sandbox.Invalid, "the request cannot be written as JSON").WithCause(err)
		}
		body = bytes.NewReader(b)
	}
	req, err := c.request(ctx, method, path, q, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.do(req)
	if err != nil {
		return err
	}
	if err = c.decode(ctx, resp, limit, out); in != nil || q != nil {
		err = c.explainVersionSkew(ctx, err)
	}
	return err
}

// request returns a request for a path that is already escaped.
func (c *Client) request(ctx context.Context, method, path string, q url.Values, body io.Reader) (*http.Request, error) {
	plain, err := url.PathUnescape(path)
	if err != nil {
		return nil, fmt.Errorf("request %s: %w", path, err)
	}
	// The host is only a name for the Host header: the client's dial function decides where a connection leads.
	u := url.URL{Scheme: "http", Host: "dormouse", Path: plain, RawPath: path, RawQuery: q.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("request %s %s: %w", method, path, err)
	}
	return req, nil
}

// do sends a request. The caller must close the body of the answer.
func (c *Client) do(req *http.Request) (*http.Response, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, requestError(req.Context(), err)
	}
	return resp, nil
}

// decode decodes an answer of at most limit bytes into out, which may be nil. It always closes the body.
func (c *Client) decode(ctx context.Context, resp *http.Response, limit int64, out any) error {
	resp.Body = &tidyBody{resp.Body}
	err := wire.Decode(resp, limit, out)
	if err == nil || sandbox.KindOf(err) != sandbox.Internal || resp.StatusCode >= 300 {
		return err
	}
	return requestError(ctx, err)
}

// tidyBody is the body of an answer. Close reads up to 512 remaining bytes first, because net/http reuses a connection only
// if the body was read to its end.
type tidyBody struct{ io.ReadCloser }

func (b *tidyBody) Close() error {
	_, _ = io.CopyN(io.Discard, b.ReadCloser, 512)
	return b.ReadCloser.Close()
}

// sandboxPath returns the path of a sandbox's route, followed by the strings in more. It returns an error for an empty name,
// which would lead to another route. It also returns an error for a name of more than 1 KiB, which no sandbox has, because
// the daemon's limit for headers would break off a request with a very long name.
func sandboxPath(name string, more ...string) (string, error) {
	const maximum = 1 << 10
	if name == "" {
		return "", sandbox.Errorf(sandbox.Invalid, "the sandbox's id or name is empty")
	}
	if len(name) > maximum {
		return "", sandbox.Errorf(sandbox.NotFound, "there is no sandbox %q", sandbox.Quote(name))
	}
	return "/v1/sandboxes/" + escapeSegment(name) + strings.Join(more, ""), nil
}

func executionPath(id string, more ...string) (string, error) {
	x, err := sandbox.ParseExecutionID(id)
	if err != nil {
		return "", err
	}
	return "/v1/executions/" + string(x) + strings.Join(more, ""), nil
}

// setInt sets a query parameter, unless n is zero.
func setInt(q url.Values, name string, n int64) {
	if n != 0 {
		q.Set(name, strconv.FormatInt(n, 10))
	}
}
