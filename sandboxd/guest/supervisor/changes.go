//go:build linux

package supervisor

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"sort"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Limits of what is said about an execution's files.
const (
	maxChanged = 100
	maxHashed  = 512 * sandbox.MiB // together
	maxOmitted = 20
)

// snapshot looks at the workspace before an execution.
func (w *workspace) snapshot() *scan {
	var s *scan
	if err := w.identity.asKernel(func() error { s = w.walk(); return nil }); err != nil {
		return &scan{}
	}
	return s
}

// changes lists the regular files that are new or changed since before, and what is left
// out with the reason.
func (w *workspace) changes(before *scan) ([]sandbox.File, []sandbox.OmittedFile) {
	after := w.snapshot()
	var changed []string
	for _, path := range after.order {
		if old, ok := before.files[path]; !ok || old != after.files[path] {
			changed = append(changed, path)
		}
	}
	if len(changed) == 0 {
		return nil, limitOmitted(news(before, after))
	}
	sort.Strings(changed)
	var files []sandbox.File
	omitted, budget := news(before, after), int64(maxHashed)
	for _, path := range changed {
		if len(files) >= maxChanged {
			omitted = append(omitted, sandbox.OmittedFile{Path: showPath(path), Reason: fmt.Sprintf("more than %d files were written", maxChanged)})
			continue
		}
		f, reason := w.describe(path, after.files[path], &budget)
		if reason != "" {
			omitted = append(omitted, sandbox.OmittedFile{Path: f.Path, Reason: reason})
			continue
		}
		files = append(files, f)
	}
	return files, limitOmitted(omitted)
}

// news are the omissions that a look before the execution did not have.
func news(before, after *scan) []sandbox.OmittedFile {
	known := map[sandbox.OmittedFile]bool{}
	for _, o := range before.omitted {
		known[o] = true
	}
	var fresh []sandbox.OmittedFile
	for _, o := range after.omitted {
		if !known[o] {
			fresh = append(fresh, o)
		}
	}
	return fresh
}

// limitOmitted names the first few, and counts the rest.
func limitOmitted(list []sandbox.OmittedFile) []sandbox.OmittedFile {
	if len(list) <= maxOmitted {
		return list
	}
	rest := len(list) - maxOmitted
	return append(list[:maxOmitted:maxOmitted], sandbox.OmittedFile{Path: ".", Reason: fmt.Sprintf("and %d more", rest)})
}

// describe returns what is said of a file, or why nothing is. The hash is left out when
// hashing would take too long, or when the file changes meanwhile.
func (w *workspace) describe(path string, st stamp, budget *int64) (f sandbox.File, reason string) {
	valid, err := sandbox.ParsePath(path)
	f = sandbox.File{Path: valid, Size: st.size, ModTime: st.modTime()}
	if err != nil || valid != path {
		return sandbox.File{Path: showPath(path)}, "its name cannot be used to ask for it"
	}
	if !st.regular() {
		return f, "it is a " + kindOf(st.fileMode())
	}
	if st.size > sandbox.MaxFileBytes || st.size > *budget {
		return f, ""
	}
	file, now, err := w.open(path)
	if err != nil {
		return f, "it cannot be read"
	}
	defer file.Close()
	*budget -= now.Size()
	if now.Size() > sandbox.MaxFileBytes || *budget < 0 {
		return f, ""
	}
	sum := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{sum}, io.LimitReader(file, now.Size()), make([]byte, min(copyBytes, now.Size()+1)))
	if err == nil && n == now.Size() {
		f.Size, f.ModTime = n, now.ModTime().UTC()
		f.SHA256 = hex.EncodeToString(sum.Sum(nil))
	}
	return f, ""
}

// showPath quotes a name that could not be shown as it is.
func showPath(path string) string {
	if valid, err := sandbox.ParsePath(path); err != nil || valid != path {
		return fmt.Sprintf("%q", path)
	}
	return path
}

// list is all that is in the workspace, without hashes.
func (w *workspace) list() ([]sandbox.File, []sandbox.OmittedFile) {
	s := w.snapshot()
	sort.Strings(s.order)
	files, omitted, none := []sandbox.File{}, s.omitted, int64(-1)
	for _, path := range s.order {
		f, reason := w.describe(path, s.files[path], &none)
		if reason != "" {
			omitted = append(omitted, sandbox.OmittedFile{Path: f.Path, Reason: reason})
			continue
		}
		files = append(files, f)
	}
	return files, limitOmitted(omitted)
}
