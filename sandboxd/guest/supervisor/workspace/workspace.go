//go:build linux

// Package workspace reads, writes and scans the folder for the files that a user and their code share. Package
// supervisor is its only caller: it serves the files over HTTP, and reports the files that an execution changed.
//
//   - [Workspace] (workspace.go): opens the folder, writes files (Write), and turns errors of system calls into errors
//     for a user
//   - [Part] (read.go): a part of a file that is being read (OpenPart)
//   - [Scan] (scan.go): the metadata of all files; changes.go compares two scans (Changes) and lists files (List)
//   - folder (folder.go): resolves paths without following links
//
// Code in the sandbox is hostile and can change the folder at any time. So the package resolves every path one element
// at a time, with the rights of the kernels' user, and uses an open file only through its descriptor. It does not
// switch users itself: its caller passes a function that runs another function with those rights.
package workspace

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sync"
	"syscall"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Workspace is the folder for the files that a user reads and writes. Its methods may be called concurrently.
type Workspace struct {
	dir      string
	capacity int64                    // size of the folder's file system in bytes, for messages
	asKernel func(func() error) error // runs a function with the rights of the kernels' user

	mu      sync.Mutex
	uploads map[string]bool // names of the temporary files of running uploads; reports and lists leave them out
}

const copyBytes = 512 << 10

// Open opens the workspace in the folder dir, whose file system has a size of capacity bytes. The function asKernel must
// run its argument with the rights of the kernels' user, and return its error. It must be safe for concurrent use. Open
// fails if that user can't enter the folder.
func Open(dir string, capacity int64, asKernel func(func() error) error) (*Workspace, error) {
	w := &Workspace{dir: dir, capacity: capacity, asKernel: asKernel, uploads: map[string]bool{}}
	err := asKernel(func() error {
		f, err := w.openParent(".", false)
		if err == nil {
			f.close()
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open the workspace as the kernels' user: %w", err)
	}
	return w, nil
}

// Write stores body in the file at filePath. The file appears as a whole or not at all.
func (w *Workspace) Write(filePath sandbox.Path, body io.Reader) (sandbox.File, error) {
	name := string(filePath)
	temp := ".dormouse-upload-" + rand.Text()
	w.hide(temp, true)
	defer w.hide(temp, false)

	parent := folder(-1)
	var file *os.File
	err := w.asKernel(func() (err error) {
		// The folder stays open: if code renames it during the upload, the file appears in the renamed folder.
		if parent, err = w.openParent(name, true); err != nil {
			return err
		}
		file, err = parent.open(temp, syscall.O_CREAT|syscall.O_EXCL|syscall.O_WRONLY, 0o644)
		return err
	})
	if parent >= 0 {
		defer parent.close()
	}
	if err != nil {
		return sandbox.File{}, w.explain(name, err)
	}
	f, err := w.fill(file, filePath, body)
	err = errors.Join(err, file.Close())
	if err == nil {
		err = w.asKernel(func() error { return parent.rename(temp, path.Base(name)) })
	}
	if err != nil {
		_ = w.asKernel(func() error { return parent.remove(temp) })
		return sandbox.File{}, w.explain(name, err)
	}
	return f, nil
}

// fill copies body into the new file and returns the file's name, size and modification time. It returns an error
// if body has more than MaxFileBytes.
func (w *Workspace) fill(file *os.File, filePath sandbox.Path, body io.Reader) (sandbox.File, error) {
	limited := io.LimitReader(body, sandbox.MaxFileBytes+1)
	// The struct types hide all methods but Write and Read, so that io.CopyBuffer uses the buffer.
	n, err := io.CopyBuffer(struct{ io.Writer }{file}, struct{ io.Reader }{limited}, make([]byte, copyBytes))
	if err != nil {
		return sandbox.File{}, err
	}
	if n > sandbox.MaxFileBytes {
		return sandbox.File{}, sandbox.FileTooLarge(filePath)
	}
	st, err := file.Stat()
	if err != nil {
		return sandbox.File{}, err
	}
	return sandbox.File{Path: string(filePath), Size: n, ModTime: st.ModTime().UTC()}, nil
}

// explain turns the error of a system call on the file name into an error that a user understands.
func (w *Workspace) explain(name string, err error) error {
	if e, ok := errors.AsType[*sandbox.Error](err); ok {
		return e
	}
	quoted := sandbox.Quote(name)
	var e *sandbox.Error
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e = sandbox.Errorf(sandbox.NotFound, "there is no file %q in %s", quoted, sandbox.Workspace)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		e = sandbox.Errorf(sandbox.Limit, "%s is full: it holds %s and a limited number of files; delete some with code", sandbox.Workspace, sandbox.FormatBytes(w.capacity))
	case errors.Is(err, fs.ErrPermission):
		e = sandbox.Errorf(sandbox.Invalid, "the sandbox's user has no permission for %q", quoted)
	case errors.Is(err, syscall.ENOTDIR):
		e = sandbox.Errorf(sandbox.Invalid, "a part of the path %q is a file or a link, not a folder: name the file by its real path below %s", quoted, sandbox.Workspace)
	case errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.EEXIST), errors.Is(err, syscall.ENOTEMPTY):
		e = sandbox.Errorf(sandbox.Invalid, "%q is a folder, not a file", quoted)
	case errors.Is(err, syscall.ELOOP):
		e = sandbox.Errorf(sandbox.Invalid, "%q leads through a link, which could lead out of %s", quoted, sandbox.Workspace)
	case errors.Is(err, syscall.ENAMETOOLONG):
		e = sandbox.Errorf(sandbox.Invalid, "the path %q is too long", quoted)
	default:
		return fmt.Errorf("%s: %w", name, err)
	}
	return e.WithCause(err)
}

func (w *Workspace) hide(name string, yes bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if yes {
		w.uploads[name] = true
	} else {
		delete(w.uploads, name)
	}
}

func (w *Workspace) hidden(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.uploads[name]
}
