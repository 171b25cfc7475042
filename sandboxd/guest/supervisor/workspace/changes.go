//go:build linux

package workspace

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"sort"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Limits of the report about an execution's files.
const (
	maxChanged = 100
	maxHashed  = 512 * sandbox.MiB // total size in bytes of the files that one report hashes
	maxOmitted = 20
)

// Changes scans the workspace, and returns the regular files that are new or changed since an earlier scan (before). It
// also returns the files that the report leaves out, each with the reason; it does not repeat the omissions that the
// scan before contains already.
func (w *Workspace) Changes(before *Scan) ([]sandbox.File, []sandbox.OmittedFile) {
	after := w.Scan()
	var changed []string
	for _, path := range after.order {
		if old, ok := before.files[path]; !ok || old != after.files[path] {
			changed = append(changed, path)
		}
	}
	if len(changed) == 0 {
		return nil, limitOmitted(newOmissions(before, after))
	}
	sort.Strings(changed)
	var files []sandbox.File
	omitted, budget := newOmissions(before, after), int64(maxHashed)
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

// newOmissions returns the omissions of one scan (after) that an earlier scan (before) does not have.
func newOmissions(before, after *Scan) []sandbox.OmittedFile {
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

// limitOmitted returns the first maxOmitted entries, and one entry with the number of the others.
func limitOmitted(list []sandbox.OmittedFile) []sandbox.OmittedFile {
	if len(list) <= maxOmitted {
		return list
	}
	rest := len(list) - maxOmitted
	return append(list[:maxOmitted:maxOmitted], sandbox.OmittedFile{Path: ".", Reason: fmt.Sprintf("and %d more", rest)})
}

// describe returns a description of a file, or the reason why there is none. The description has no hash if the file
// is larger than MaxFileBytes or *budget, or if it shrinks while it is hashed. Hashing reduces *budget by the file's
// size.
func (w *Workspace) describe(path string, st stamp, budget *int64) (f sandbox.File, reason string) {
	valid, err := sandbox.ParsePath(path)
	f = sandbox.File{Path: string(valid), Size: st.size, ModTime: st.modTime()}
	if err != nil || string(valid) != path {
		return sandbox.File{Path: showPath(path)}, "its name can't be used in a request"
	}
	if !st.regular() {
		return f, "it is a " + kindOf(st.fileMode())
	}
	if st.size > sandbox.MaxFileBytes || st.size > *budget {
		return f, ""
	}
	file, now, err := w.open(path)
	if err != nil {
		return f, "the sandbox's user can't read it"
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

// showPath returns path, quoted if it is not valid.
func showPath(path string) string {
	if valid, err := sandbox.ParsePath(path); err != nil || string(valid) != path {
		return fmt.Sprintf("%q", path)
	}
	return path
}

// List returns all regular files in the workspace without hashes, and the files that the list leaves out, each with the
// reason.
func (w *Workspace) List() ([]sandbox.File, []sandbox.OmittedFile) {
	s := w.Scan()
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
