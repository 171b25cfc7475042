// Package wire contains the parts of JSON over HTTP that the REST API (package api), the guest and the MCP server
// share.
//
//   - [ReadJSON], [Decode], [WriteJSON], [WriteError]: requests and answers of limited size, and the mapping
//     between error kinds and HTTP statuses (wire.go)
//   - [CheckShape]: limits for the number and the depth of JSON values (shape.go)
//   - [Budget]: a limit for something that requests share, such as memory or connections; [Reserve] takes the memory of
//     a large answer from a budget (budget.go)
//   - [WaitAllowed], [WorkAllowed]: a request that waits for an execution exchanges its slot for working requests for one
//     for waiting requests, and back (waiting.go)
//
// It does not define routes or the types of requests and answers: packages api and guest do.
package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// kinds maps error kinds to HTTP statuses and HTTP statuses to error kinds.
var kinds = []struct {
	kind   sandbox.Kind
	status int
}{
	{sandbox.Invalid, http.StatusBadRequest},
	{sandbox.NotFound, http.StatusNotFound},
	{sandbox.Expired, http.StatusGone},
	{sandbox.Busy, http.StatusConflict},
	{sandbox.Limit, http.StatusTooManyRequests},
	{sandbox.Unavailable, http.StatusServiceUnavailable},
	{sandbox.Internal, http.StatusInternalServerError},
}

// StatusOf returns the HTTP status for err's kind.
func StatusOf(err error) int {
	kind := sandbox.KindOf(err)
	for _, k := range kinds {
		if k.kind == kind {
			return k.status
		}
	}
	return http.StatusInternalServerError
}

// ErrorBody is the JSON of an answer that reports an error, and of the last line of a stream that has failed.
type ErrorBody struct {
	Error *sandbox.Error `json:"error"`
}

// WriteJSON sends an answer with the JSON of v.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(Whole(w, status))
	enc.SetEscapeHTML(false) // escaping writes "<" as six bytes, and browsers don't interpret JSON as HTML
	_ = enc.Encode(v)        // a failed write means that the client has disconnected
}

// Whole returns a writer that sends an answer. The caller must pass the whole answer in a single Write, as a
// [json.Encoder] does with a value. Write sets Content-Length, so that the client can reserve memory before it reads
// the answer.
func Whole(w http.ResponseWriter, status int) io.Writer { return &whole{w, status} }

type whole struct {
	http.ResponseWriter
	status int
}

func (w *whole) Write(p []byte) (int, error) {
	w.Header().Set("Content-Length", strconv.Itoa(len(p)))
	w.WriteHeader(w.status)
	return w.ResponseWriter.Write(p)
}

// WriteError sends an answer that reports err, with the text that [sandbox.Public] returns.
func WriteError(w http.ResponseWriter, err error) {
	WriteJSON(w, StatusOf(err), ErrorBody{Error: sandbox.Public(err)})
}

// ReadJSON decodes a request's body of at most limit bytes, [MaxValues] values and [MaxDepth] levels into v. It returns
// an error of kind invalid for a body beyond a limit, for an unknown field, and if anything follows the value.
func ReadJSON(w http.ResponseWriter, r *http.Request, limit int64, v any) error {
	dec := json.NewDecoder(&shapedReader{r: http.MaxBytesReader(w, r.Body, limit), shape: shape{maximum: MaxValues}})
	dec.DisallowUnknownFields()
	err := dec.Decode(v)
	if err == nil && dec.More() {
		err = errors.New("the body continues after the JSON value")
	}
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*sandbox.Error](err); ok {
		return err
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return sandbox.Errorf(sandbox.Invalid, "the request's body has more than %d bytes, which is the limit", limit)
	}
	if errors.Is(err, io.EOF) {
		return sandbox.Errorf(sandbox.Invalid, "the request has no body: send JSON")
	}
	return sandbox.Errorf(sandbox.Invalid, "the request's body is not valid: %s", strings.TrimPrefix(err.Error(), "json: "))
}

// Decode decodes an answer of at most limit bytes into v. If v is nil, Decode discards the answer. If the answer reports an
// error, Decode returns that error. Decode takes the memory for the answer from the budget of the request's context: see
// [Reserve]. It always closes the body.
func Decode(resp *http.Response, limit int64, v any) error {
	defer resp.Body.Close()
	if resp.StatusCode >= 400 {
		return ReadError(resp)
	}
	body := io.LimitReader(resp.Body, limit)
	if v == nil {
		_, err := io.Copy(io.Discard, body)
		return err
	}
	err := Reserve(resp.Request.Context(), min(resp.ContentLength, limit), answerPatience)
	if err == nil {
		err = json.NewDecoder(&reservingReader{r: body, ctx: resp.Request.Context(), reserved: resp.ContentLength}).Decode(v)
	}
	if _, ok := errors.AsType[*sandbox.Error](err); ok {
		return err
	}
	if err != nil {
		return fmt.Errorf("read the answer to %s %s: %w", resp.Request.Method, resp.Request.URL.Path, err)
	}
	return nil
}

// ReadError returns the error that an answer reports. The status, and not the body, determines the kind of the error. If
// the body is not that of [WriteError], for example because a proxy sent the answer, the error contains only the status.
// The kind of such an error is unavailable if the status means that a server behind the proxy cannot be reached, and
// otherwise internal. The caller must close the body.
func ReadError(resp *http.Response) error {
	const maximum = 64 << 10
	var body ErrorBody
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maximum))
	if json.Unmarshal(text, &body) == nil && body.Error != nil && body.Error.Message != "" {
		for _, k := range kinds {
			if k.status == resp.StatusCode {
				body.Error.Kind = k.kind
				return body.Error
			}
		}
	}
	err := fmt.Errorf("%s %s: %s", resp.Request.Method, resp.Request.URL.Path, resp.Status)
	switch resp.StatusCode {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return sandbox.Errorf(sandbox.Unavailable, "Dormouse cannot be reached: a server in front of it answered with status %d (%s). Try again in a moment",
			resp.StatusCode, http.StatusText(resp.StatusCode)).WithCause(err)
	}
	return err
}
