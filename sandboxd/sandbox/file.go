package sandbox

import (
	"path"
	"strings"
	"time"
	"unicode/utf8"
)

// Workspace is the folder for a sandbox's files. It is the working directory of code, and the only folder that clients
// can write files to and read files from.
const Workspace = "/workspace"

// File is a regular file in the workspace.
type File struct {
	Path    string    `json:"path"` // relative to /workspace
	Size    int64     `json:"size"`
	SHA256  string    `json:"sha256,omitempty"`
	ModTime time.Time `json:"mod_time,omitzero"`
}

// OmittedFile is a file in the workspace that a list leaves out.
type OmittedFile struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

// FileTooLarge returns the error for a file at path that exceeds [MaxFileBytes].
func FileTooLarge(path Path) *Error {
	return Errorf(Invalid, "%q is larger than %d MiB, the limit of one file: send it in parts and join them with code", Quote(string(path)), MaxFileBytes/MiB)
}

// Limits of a path.
const (
	maxPathBytes = 1024
	maxNameBytes = 255
)

// Path is the path of a file in the workspace, relative to /workspace, as [ParsePath] returns it.
type Path string

// ParsePath returns the clean path of the file that s names. s is relative to /workspace or begins with /workspace/. The
// error is of kind invalid if the path would leave the workspace, names a folder, contains a control character or invalid
// UTF-8, or is too long for a file system.
func ParsePath(s string) (Path, error) {
	switch {
	case s == "":
		return "", Errorf(Invalid, "the file's path is empty")
	case !utf8.ValidString(s):
		return "", Errorf(Invalid, "the file's path is not valid UTF-8")
	case len(s) > maxPathBytes:
		return "", Errorf(Invalid, "the file's path is %d bytes long, the limit is %d", len(s), maxPathBytes)
	case strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f }):
		return "", Errorf(Invalid, "the file's path %q has a control character", Quote(s))
	case strings.HasSuffix(s, "/"):
		return "", Errorf(Invalid, "%q names a folder, not a file", Quote(s))
	}
	rel := s
	if path.IsAbs(s) && path.Clean(s) == Workspace {
		rel = "."
	} else if path.IsAbs(s) {
		var ok bool
		if rel, ok = strings.CutPrefix(path.Clean(s), Workspace+"/"); !ok {
			return "", Errorf(Invalid, "%q is outside %s: only files below %s can be read and written (code can copy other files there)", Quote(s), Workspace, Workspace)
		}
	}
	for name := range strings.SplitSeq(rel, "/") {
		if name == ".." {
			return "", Errorf(Invalid, "%q has a \"..\": name the file by its path below %s", Quote(s), Workspace)
		}
		if len(name) > maxNameBytes {
			return "", Errorf(Invalid, "a name in %q has %d bytes, the limit is %d", Quote(s), len(name), maxNameBytes)
		}
	}
	if rel = path.Clean(rel); rel == "." {
		return "", Errorf(Invalid, "%q names the workspace itself, not a file", Quote(s))
	}
	return Path(rel), nil
}
