package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
)

// ListFiles returns the files in the workspace, and the files that the list omits.
func (c *Client) ListFiles(ctx context.Context, name string) ([]sandbox.File, []sandbox.OmittedFile, error) {
	path, err := sandboxPath(name, "/files")
	if err != nil {
		return nil, nil, err
	}
	var list FileList
	err = c.call(ctx, http.MethodGet, path, nil, nil, maxFileListAnswer, &list)
	return list.Files, list.Omitted, err
}

// WriteFile streams body into a file. If reading body fails, WriteFile returns that error. It does not close body, and does
// not read from it after it has returned.
func (c *Client) WriteFile(ctx context.Context, name string, path sandbox.Path, body io.Reader) (f sandbox.File, err error) {
	route, err := filePath(name, path)
	if err != nil {
		return f, err
	}
	size := sizeOf(body)
	detachable := &detachableReader{r: body}
	defer detachable.detach()
	req, err := c.request(ctx, http.MethodPut, route, nil, detachable)
	if err != nil {
		return f, err
	}
	req.ContentLength = size // -1: unknown
	if size == 0 {
		req.Body = http.NoBody // with any other body, net/http takes a ContentLength of 0 as unknown
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("Expect", "100-continue") // so that the daemon can refuse the upload before the client sends the body
	resp, err := c.do(req)
	if err == nil {
		err = c.decode(ctx, resp, maxAnswer, &f)
	}
	if failed := detachable.failure(); failed != nil { // err contains no cause, only that the request is incomplete
		return sandbox.File{}, failed
	}
	return f, err
}

// ReadFile returns length bytes of a file from offset on, or fewer if the file ends before. A negative length means up to
// the end. The returned File has the size of the whole file. The caller must close the body.
func (c *Client) ReadFile(ctx context.Context, name string, path sandbox.Path, offset, length int64) (io.ReadCloser, sandbox.File, error) {
	route, err := filePath(name, path)
	if err != nil {
		return nil, sandbox.File{}, err
	}
	if offset < 0 { // a Range with a negative offset would have another meaning
		return nil, sandbox.File{}, sandbox.Errorf(sandbox.Invalid, "offset %d is negative: use 0 or more", offset)
	}
	method := http.MethodGet
	if length == 0 {
		method = http.MethodHead
	}
	req, err := c.request(ctx, method, route, nil, nil)
	if err != nil {
		return nil, sandbox.File{}, err
	}
	if part := rangeHeader(offset, length); part != "" {
		req.Header.Set("Range", part)
	}
	resp, err := c.do(req)
	if err != nil {
		return nil, sandbox.File{}, err
	}
	f := sandbox.File{Path: string(path)}
	switch resp.StatusCode {
	case http.StatusOK:
		f.Size = resp.ContentLength
	case http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable:
		_, whole, _ := strings.Cut(resp.Header.Get("Content-Range"), "/")
		f.Size, err = strconv.ParseInt(whole, 10, 64)
		if err != nil {
			resp.Body.Close()
			return nil, sandbox.File{}, requestError(ctx, errors.New("an answer without the file's size"))
		}
	default:
		if method == http.MethodHead { // the answer to HEAD has no body, so ask again with GET to get the error
			resp.Body.Close()
			return c.ReadFile(ctx, name, path, offset, 1)
		}
		defer resp.Body.Close()
		return nil, sandbox.File{}, wire.ReadError(resp)
	}
	if resp.StatusCode == http.StatusRequestedRangeNotSatisfiable { // offset is at or after the end: ReadFile returns no bytes
		return http.NoBody, f, (&tidyBody{resp.Body}).Close()
	}
	return &fileBody{ctx: ctx, body: resp.Body}, f, nil
}

func rangeHeader(offset, length int64) string {
	first := "bytes=" + strconv.FormatInt(offset, 10) + "-"
	switch {
	case length > 0:
		return first + strconv.FormatInt(offset+length-1, 10)
	case length < 0 && offset > 0:
		return first
	}
	return ""
}

// filePath returns the path of a file's route. The whole path becomes one segment, so that no part of it is special, and
// the daemon checks it.
func filePath(name string, path sandbox.Path) (string, error) {
	return sandboxPath(name, "/files/", escapeSegment(string(path)))
}

// sizeOf returns the number of bytes that r has left to read, or -1 if it is unknown.
func sizeOf(r io.Reader) int64 {
	switch r := r.(type) {
	case interface{ Len() int }: // bytes.Reader, bytes.Buffer, strings.Reader
		return int64(r.Len())
	case *os.File:
		info, err := r.Stat()
		if err != nil || !info.Mode().IsRegular() {
			return -1
		}
		at, err := r.Seek(0, io.SeekCurrent)
		if err != nil {
			return -1
		}
		return max(info.Size()-at, 0)
	}
	return -1
}

// detachableReader passes a reader to net/http, which may still read from it in the background after the request has returned.
// After detach, reads fail without touching the reader.
type detachableReader struct {
	mu       sync.Mutex
	r        io.Reader
	err      error // the error of a failed read from the reader r; nil: no read has failed
	detached bool  // detach was called
}

var errDetached = errors.New("the request is over")

func (l *detachableReader) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.detached {
		return 0, errDetached
	}
	n, err := l.r.Read(p)
	if err != nil && err != io.EOF {
		l.err = err
	}
	return n, err
}

// WriteTo is called by net/http, which would otherwise copy in pieces of 32 KiB.
func (l *detachableReader) WriteTo(w io.Writer) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{l}, make([]byte, copyBytes))
}

func (l *detachableReader) detach() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.detached = true
}

func (l *detachableReader) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// fileBody is the body of a file that is downloaded. Its Read returns the errors of requestError.
type fileBody struct {
	ctx  context.Context // the request's context
	body io.ReadCloser
}

func (b *fileBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if err != nil && err != io.EOF {
		err = requestError(b.ctx, err)
	}
	return n, err
}

func (b *fileBody) Close() error { return b.body.Close() }
