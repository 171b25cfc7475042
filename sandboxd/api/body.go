package api

import (
	"io"
	"net/http"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// requestBody is the body of a request. It counts its bytes for the log. If the body is the content of a file, Read fails
// if no byte arrives for stallTimeout, or if the file exceeds [sandbox.MaxFileBytes]. The duration of a whole upload is not
// limited.
type requestBody struct {
	io.ReadCloser
	rc    *http.ResponseController
	begun bool  // Read was called
	n     int64 // bytes read

	file sandbox.Path // the path of the uploaded file; empty: the body is no file
	err  error        // why the file is invalid; nil: no error so far
}

func (b *requestBody) Read(p []byte) (int, error) {
	b.begun = true
	if b.file == "" {
		n, err := b.ReadCloser.Read(p)
		b.n += int64(n)
		return n, err
	}
	if b.err != nil {
		return 0, b.err
	}
	_ = b.rc.SetReadDeadline(time.Now().Add(stallTimeout))
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	if err != nil {
		_ = b.rc.SetReadDeadline(time.Time{}) // the deadline must not apply to the next request on the connection
	}
	if b.n > sandbox.MaxFileBytes {
		b.err = sandbox.FileTooLarge(b.file)
		return 0, b.err
	}
	if err != nil && err != io.EOF {
		b.err = sandbox.Errorf(sandbox.Invalid, "%q was not written, because its upload broke off: send it again", sandbox.Quote(string(b.file))).WithCause(err)
		return n, b.err
	}
	return n, err
}

// drain reads and discards the rest of a refused upload, up to a limit and for up to 10 s. Otherwise a client that is still
// sending would get a broken connection instead of the answer. If the client waits for a "100 Continue" before it sends the
// body (sending is false) and nothing was read yet, drain reads nothing, because net/http sends the "100 Continue" with the
// first read.
func (b *requestBody) drain(sending bool) {
	if !b.begun && !sending {
		return
	}
	_ = b.rc.SetReadDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.CopyN(io.Discard, b.ReadCloser, 2*sandbox.MaxFileBytes)
	_ = b.rc.SetReadDeadline(time.Time{})
}
