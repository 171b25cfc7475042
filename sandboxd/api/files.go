package api

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"path"
	"strconv"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
)

func (h *Handler) listFiles(w http.ResponseWriter, r *http.Request) error {
	if _, err := params(r); err != nil {
		return err
	}
	files, omitted, err := h.sandboxes.ListFiles(r.Context(), r.PathValue("sandbox"))
	if err != nil {
		return err
	}
	if files == nil {
		files = []sandbox.File{}
	}
	wire.WriteJSON(w, http.StatusOK, FileList{Files: files, Omitted: omitted})
	return nil
}

// writeFile streams the request's body into a file.
func (h *Handler) writeFile(w http.ResponseWriter, r *http.Request) error {
	body := r.Body.(*requestBody) // ServeHTTP has set it
	f, err := h.storeFile(r, body)
	if err != nil {
		body.drain(r.Header.Get("Expect") == "")
		if body.err != nil {
			return body.err // body.err is the cause of err, and has the message for the client
		}
		return err
	}
	wire.WriteJSON(w, http.StatusOK, f)
	return nil
}

func (h *Handler) storeFile(r *http.Request, body *requestBody) (f sandbox.File, err error) {
	if _, err := params(r); err != nil {
		return f, err
	}
	if err := refuseEncoding(r); err != nil {
		return f, err
	}
	path, err := sandbox.ParsePath(r.PathValue("path"))
	if err != nil {
		return f, err
	}
	if r.Header.Get("Content-Range") != "" {
		return f, sandbox.Errorf(sandbox.Invalid, "a file can only be written as a whole: send it without Content-Range")
	}
	if r.ContentLength > sandbox.MaxFileBytes {
		return f, sandbox.FileTooLarge(path)
	}
	body.file = path
	return h.sandboxes.WriteFile(r.Context(), r.PathValue("sandbox"), path, body)
}

// readFile answers with a file or a part of it.
func (h *Handler) readFile(w http.ResponseWriter, r *http.Request) error {
	if _, err := params(r); err != nil {
		return err
	}
	name, err := sandbox.ParsePath(r.PathValue("path"))
	if err != nil {
		return err
	}
	part, err := parseRange(r)
	if err != nil {
		return err
	}
	if part.suffix > 0 {
		if part, err = h.resolveSuffix(r, name, part.suffix); err != nil {
			return err
		}
	}
	body, file, err := h.sandboxes.ReadFile(r.Context(), r.PathValue("sandbox"), name, part.offset, part.length)
	if err != nil {
		return err
	}
	defer body.Close()

	n := max(file.Size-part.offset, 0)
	if part.length >= 0 {
		n = min(n, part.length)
	}
	switch {
	case part.given && n == 0:
		w.Header().Set("Content-Range", "bytes */"+strconv.FormatInt(file.Size, 10))
		return &statusError{http.StatusRequestedRangeNotSatisfiable, sandbox.Errorf(sandbox.Invalid,
			"the range begins at or after the end of %q, which has %d bytes", sandbox.Quote(string(name)), file.Size)}
	case n > sandbox.MaxFileBytes && r.Method == http.MethodGet:
		return sandbox.Errorf(sandbox.Invalid, "%q has %d bytes, and one answer contains at most %d: read it in parts, with a Range header", sandbox.Quote(string(name)), n, sandbox.MaxFileBytes)
	}
	describeFile(w.Header(), string(name))
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	status := http.StatusOK
	if part.given {
		status = http.StatusPartialContent
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", part.offset, part.offset+n-1, file.Size))
	}
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return nil
	}
	if err := h.send(w, body, n); err != nil {
		h.log.Debug("download ended early", "route", r.Pattern, "err", untrusted(err.Error()))
		panic(http.ErrAbortHandler) // this panic breaks the connection, so that the client sees that the file is incomplete
	}
	return nil
}

// resolveSuffix returns the range of a file's last n bytes.
func (h *Handler) resolveSuffix(r *http.Request, name sandbox.Path, n int64) (byteRange, error) {
	body, file, err := h.sandboxes.ReadFile(r.Context(), r.PathValue("sandbox"), name, 0, -1)
	if err != nil {
		return byteRange{}, err
	}
	return byteRange{given: true, offset: max(file.Size-n, 0), length: n}, body.Close()
}

// describeFile sets the headers of a file. They make a browser save the file instead of displaying it, because a file that
// code in a sandbox wrote must not act as a page of the API's origin.
func describeFile(header http.Header, name string) {
	header.Set("Content-Type", "application/octet-stream")
	header.Set("Accept-Ranges", "bytes")
	disposition := mime.FormatMediaType("attachment", map[string]string{"filename": path.Base(name)})
	if disposition == "" {
		disposition = "attachment"
	}
	header.Set("Content-Disposition", disposition)
	header.Set("Content-Security-Policy", "sandbox")
}

var copyBuffers = sync.Pool{New: func() any { return new([copyBytes]byte) }}

// send copies n bytes of body to the client.
func (h *Handler) send(w http.ResponseWriter, body io.Reader, n int64) error {
	buf := copyBuffers.Get().(*[copyBytes]byte)
	defer copyBuffers.Put(buf)
	rc := http.NewResponseController(w)
	defer func() { _ = rc.SetWriteDeadline(time.Time{}) }()
	for n > 0 {
		m, err := body.Read(buf[:min(n, copyBytes)])
		if m > 0 {
			_ = rc.SetWriteDeadline(time.Now().Add(stallTimeout))
			if _, err := w.Write(buf[:m]); err != nil {
				return err
			}
			n -= int64(m)
		}
		if err != nil && n > 0 {
			if errors.Is(err, io.EOF) {
				return io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}
