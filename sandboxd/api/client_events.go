package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// maxEventBytes is the maximum size of one line of a stream. A line with one event may contain all rich values of an
// execution.
const maxEventBytes = 2 * sandbox.MaxRichBytes

// FollowExecution calls fn with each event whose number is at least from, until the execution is final. If fn returns an
// error, FollowExecution returns it.
func (c *Client) FollowExecution(ctx context.Context, id string, from int64, fn func(sandbox.Event) error) error {
	path, err := executionPath(id, "/events")
	if err != nil {
		return err
	}
	q := url.Values{}
	setInt(q, "from", from)
	ctx, cancel := context.WithCancel(ctx) // cancel closes the stream if FollowExecution returns before the stream ends
	defer cancel()
	req, err := c.request(ctx, http.MethodGet, path, q, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/x-ndjson")
	resp, err := c.do(req)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return c.decode(ctx, resp, maxAnswer, nil)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 0, 64<<10), maxEventBytes)
	for lines.Scan() {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue // an empty line only keeps the connection alive
		}
		var e struct {
			sandbox.Event
			Error *sandbox.Error `json:"error"`
		}
		if err := json.Unmarshal(line, &e); err != nil {
			return requestError(ctx, err)
		}
		if e.Error != nil {
			return e.Error
		}
		if err := fn(e.Event); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return requestError(ctx, err)
	}
	return nil
}
