//go:build linux

package supervisor

import (
	"net/http"
	"strconv"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

func (s *Supervisor) listFiles(w http.ResponseWriter, _ *http.Request) error {
	files, omitted := s.workspace.List()
	return writeJSON(w, guest.FileList{Files: files, Omitted: omitted})
}

func (s *Supervisor) putFile(w http.ResponseWriter, r *http.Request) error {
	path, err := sandbox.ParsePath(r.PathValue("path"))
	if err != nil {
		return err
	}
	file, err := s.workspace.Write(path, r.Body)
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
	length := int64(-1)
	if r.URL.Query().Has("length") {
		if length, err = number(r, "length"); err != nil {
			return err
		}
	}
	part, err := s.workspace.OpenPart(path, offset, length)
	if err != nil {
		return err
	}
	defer part.Close()
	w.Header().Set(guest.SizeHeader, strconv.FormatInt(part.FileSize, 10))
	w.Header().Set("Content-Length", strconv.FormatInt(part.Length, 10))
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := part.CopyTo(w); err != nil {
		panic(http.ErrAbortHandler)
	}
	return nil
}
