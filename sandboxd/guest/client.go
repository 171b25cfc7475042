package guest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
)

// Limits of answers from a guest.
const (
	maxAnswer    = 64 * sandbox.MiB // bytes of one JSON answer
	maxEventLine = 17 * sandbox.MiB // bytes of one event as JSON

	eventPatience = 5 * time.Second // how long a large event waits for memory that other answers use
)

// SizeHeader is the header with a file's whole size, also if the body is only a part of the file.
const SizeHeader = "X-Dormouse-Size"

// Client talks to one sandbox's guest over one connection, which it dials when a request first needs it, and again
// after the connection was lost. Client sanitizes all answers, because hostile code may have taken over the guest. The
// methods may be called concurrently.
//
// An error answer of the guest is returned as a [sandbox.Error]. Errors of the connection are wrapped.
type Client struct {
	conn connection
}

// NewClient returns a client that reaches the guest through dial.
func NewClient(dial func(context.Context) (net.Conn, error)) *Client {
	return &Client{conn: newConnection(dial)}
}

// Close closes the connection and aborts its requests. The guest's executions continue.
func (c *Client) Close() { c.conn.close() }

// Status returns the sandbox's usage, kernels and executions.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.call(ctx, http.MethodGet, StatusRoute, nil, nil, &s)
	if err != nil {
		return Status{}, err
	}
	sanitizeStatus(&s)
	return s, nil
}

// SetExpiry sets when the guest's dead man's switch ends the sandbox.
func (c *Client) SetExpiry(ctx context.Context, t time.Time) error {
	return c.call(ctx, http.MethodPut, ExpiryRoute, nil, Expiry{ExpireUnix: t.Unix()}, nil)
}

// ReportRestore reports to the guest that its memory was restored.
func (c *Client) ReportRestore(ctx context.Context, r Restore) error {
	return c.call(ctx, http.MethodPost, RestoreRoute, nil, r, nil)
}

// Prepare makes a kernel ready for a snapshot, and returns when the kernel is ready.
func (c *Client) Prepare(ctx context.Context, lang sandbox.Language) error {
	return c.call(ctx, http.MethodPost, PrepareRoute, nil, Preparation{Language: lang}, nil)
}

// Execute starts an execution, or joins the execution that has this id already, and waits up to req.WaitSeconds for its
// end. The answer has the events of req.Window.
func (c *Client) Execute(ctx context.Context, id sandbox.ExecutionID, req sandbox.ExecuteRequest) (sandbox.Execution, error) {
	return c.execution(ctx, http.MethodPut, ExecutionsRoute+string(id), waitQuery(req.WaitSeconds), id, req)
}

// Execution returns an execution after waiting up to waitSeconds for its end. The answer has the events of w.
func (c *Client) Execution(ctx context.Context, id sandbox.ExecutionID, waitSeconds float64, w sandbox.Window) (sandbox.Execution, error) {
	q := waitQuery(waitSeconds)
	q.Set("offset", strconv.FormatInt(w.Offset, 10))
	q.Set("head", strconv.Itoa(w.Head))
	q.Set("tail", strconv.Itoa(w.Tail))
	return c.execution(ctx, http.MethodGet, ExecutionsRoute+string(id), q, id, nil)
}

// Interrupt stops an execution, with stronger signals if necessary, and returns it when it has stopped. An execution
// that is already final is returned unchanged.
func (c *Client) Interrupt(ctx context.Context, id sandbox.ExecutionID) (sandbox.Execution, error) {
	return c.execution(ctx, http.MethodPost, ExecutionsRoute+string(id)+"/interrupt", nil, id, nil)
}

// Events calls fn with each event whose number is at least from. It returns nil when the execution is final and all its
// events were delivered. If fn returns an error, Events stops and returns that error.
func (c *Client) Events(ctx context.Context, id sandbox.ExecutionID, from int64, fn func(sandbox.Event) error) error {
	q := url.Values{"from": {strconv.FormatInt(from, 10)}}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream if fn has returned an error
	resp, err := c.send(ctx, http.MethodGet, ExecutionsRoute+string(id)+"/events", q, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 0, 64<<10), maxEventLine)
	final, last := false, from-1
	for lines.Scan() {
		if err := wire.Reserve(ctx, int64(len(lines.Bytes())), eventPatience); err != nil {
			return err
		}
		var e sandbox.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("read an event of %s: %w", id, err)
		}
		if e.Seq <= last || !sanitizeEvent(&e) {
			continue
		}
		last = e.Seq
		final = e.Type == sandbox.EventStatus && e.State.Final()
		if err := fn(e); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the events of %s: %w", id, err)
	}
	// The last event of a stream is the final status. A stream without events is also valid, because from can be beyond
	// the final status.
	if !final && last >= from {
		return fmt.Errorf("read the events of %s: %w", id, io.ErrUnexpectedEOF)
	}
	return nil
}

// ListFiles lists the regular files in the workspace.
func (c *Client) ListFiles(ctx context.Context) (FileList, error) {
	var l FileList
	if err := c.call(ctx, http.MethodGet, FilesRoute, nil, nil, &l); err != nil {
		return FileList{}, err
	}
	l.Files = sanitizeFiles(l.Files)
	l.Omitted = sanitizeOmitted(l.Omitted)
	return l, nil
}

// WriteFile stores body in the file at path. The file appears as a whole or not at all. The returned size and hash are
// those of the bytes sent. The guest only counts the received bytes, because hashing them a second time in the guest
// would cost more than the rest of the transfer.
func (c *Client) WriteFile(ctx context.Context, path sandbox.Path, body io.Reader) (sandbox.File, error) {
	sent := newDigest(fullReader{body})
	defer sent.close()
	resp, err := c.send(ctx, http.MethodPut, FilesRoute+string(path), nil, io.NopCloser(sent))
	if err != nil {
		return sandbox.File{}, err
	}
	var f sandbox.File
	if err := wire.Decode(resp, maxAnswer, &f); err != nil {
		return sandbox.File{}, err
	}
	n, sum := sent.result()
	if f.Size != n {
		return sandbox.File{}, sandbox.Errorf(sandbox.Unavailable, "%q was damaged on its way into the sandbox: write it again", sandbox.Quote(string(path)))
	}
	return sandbox.File{Path: string(path), Size: n, SHA256: hex.EncodeToString(sum), ModTime: sanitizeTime(f.ModTime)}, nil
}

// ReadFile returns length bytes of a file from offset on (all if length is negative), and the whole size of the file.
// If the file shrinks during the transfer, reading body ends with io.ErrUnexpectedEOF. The caller must close body.
func (c *Client) ReadFile(ctx context.Context, path sandbox.Path, offset, length int64) (body io.ReadCloser, whole int64, err error) {
	q := url.Values{}
	if offset != 0 {
		q.Set("offset", strconv.FormatInt(offset, 10))
	}
	if length >= 0 {
		q.Set("length", strconv.FormatInt(length, 10))
	}
	resp, err := c.send(ctx, http.MethodGet, FilesRoute+string(path), q, nil)
	if err != nil {
		return nil, 0, err
	}
	whole, err = strconv.ParseInt(resp.Header.Get(SizeHeader), 10, 64)
	if err != nil || whole < 0 {
		resp.Body.Close()
		return nil, 0, fmt.Errorf("read %s: the guest's answer has no valid size", path)
	}
	want := max(whole-offset, 0)
	if length >= 0 {
		want = min(want, length)
	}
	return &exactBody{body: fullReader{resp.Body}, Closer: resp.Body, left: want}, whole, nil
}

func waitQuery(seconds float64) url.Values {
	return url.Values{"wait": {strconv.FormatFloat(seconds, 'f', -1, 64)}}
}

func (c *Client) execution(ctx context.Context, method, path string, q url.Values, id sandbox.ExecutionID, in any) (sandbox.Execution, error) {
	var e sandbox.Execution
	if err := c.call(ctx, method, path, q, in, &e); err != nil {
		return sandbox.Execution{}, err
	}
	e.ID, e.SandboxID = id, "" // the guest has no record of its sandbox's id
	if err := sanitizeExecution(&e); err != nil {
		return sandbox.Execution{}, err
	}
	return e, nil
}

// call sends a request and reads the answer. in, if not nil, is encoded as the JSON body. out, if not nil, receives the
// answer. The request may arrive twice, so call is only for requests that can be repeated.
func (c *Client) call(ctx context.Context, method, path string, q url.Values, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("encode a request: %w", err)
		}
	}
	resp, err := c.send(ctx, method, path, q, repeatableBody(body))
	if err != nil {
		return err
	}
	return wire.Decode(resp, maxAnswer, out)
}

// send sends a request and returns the answer. It returns an error for an answer with an error status. The caller must
// close the body of the answer.
func (c *Client) send(ctx context.Context, method, path string, q url.Values, body io.ReadCloser) (*http.Response, error) {
	u := &url.URL{Scheme: "http", Host: host, Path: path, RawQuery: q.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("ask the guest: %w", err)
	}
	if data, ok := body.(repeatableBody); ok {
		if data != nil {
			req.ContentLength = int64(len(data))
			req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
			req.Body, _ = req.GetBody()
		}
	} else if body != nil {
		req.Body, req.ContentLength = body, -1
	}
	resp, err := c.conn.roundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		return nil, sanitizeError(wire.ReadError(resp))
	}
	return resp, nil
}
