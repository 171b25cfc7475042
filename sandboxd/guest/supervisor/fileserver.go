//go:build linux

package supervisor

import (
	"io"
	"net/http"
	"strconv"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

func (s *Supervisor) listFiles(w http.ResponseWriter, _ *http.Request) error {
	files, omitted := s.workspace.list()
	return writeJSON(w, guest.FileList{Files: files, Omitted: omitted})
}

func (s *Supervisor) putFile(w http.ResponseWriter, r *http.Request) error {
	path, err := sandbox.ParsePath(r.PathValue("path"))
	if err != nil {
		return err
	}
	if r.ContentLength > sandbox.MaxFileBytes {
		return sandbox.FileTooLarge(path)
	}
	file, err := s.workspace.write(path, r.Body)
	if err != nil {
		return err
	}
	return writeJSON(w, file)
}

// getFile answers with a part of a file in its current state. If the file shrinks during the transfer, getFile aborts
// the stream, so that the answer does not look complete.
func (s *Supervisor) getFile(w http.ResponseWriter, r *http.Request) error {
	path, err := sandbox.ParsePath(r.PathValue("path"))
	if err != nil {
		return err
	}
	offset, err := number(r, "offset")
	if err != nil {
		return err
	}
	file, st, err := s.workspace.open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	whole := st.Size()
	if offset > whole {
		return sandbox.Errorf(sandbox.Invalid, "offset %d is beyond the end of %q, which has %d bytes", offset, sandbox.Quote(path), whole)
	}
	length := whole - offset
	if r.URL.Query().Has("length") {
		n, err := number(r, "length")
		if err != nil {
			return err
		}
		length = min(length, n)
	}
	w.Header().Set(guest.SizeHeader, strconv.FormatInt(whole, 10))
	w.Header().Set("Content-Length", strconv.FormatInt(length, 10))
	w.Header().Set("Content-Type", "application/octet-stream")
	section := io.NewSectionReader(file, offset, length)
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{section}, make([]byte, min(copyBytes, length+1)))
	if err != nil || n < length {
		panic(http.ErrAbortHandler)
	}
	return nil
}
