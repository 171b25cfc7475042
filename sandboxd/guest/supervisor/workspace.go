//go:build linux

package supervisor

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

// workspace is the folder for the files that a user reads and writes. Paths are resolved with the rights of the
// kernels' user and never lead out of the folder (folder.go). After that, an open file is used only through its
// descriptor.
type workspace struct {
	dir      string
	capacity int64
	identity identity

	mu      sync.Mutex
	uploads map[string]bool // names of the temporary files of running uploads; reports and lists leave them out
}

const copyBytes = 512 << 10

func openWorkspace(dir string, capacity int64, id identity) (*workspace, error) {
	w := &workspace{dir: dir, capacity: capacity, identity: id, uploads: map[string]bool{}}
	err := id.asKernel(func() error {
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

// write stores body in the file at the path name. The file appears as a whole or not at all.
func (w *workspace) write(name string, body io.Reader) (sandbox.File, error) {
	temp := ".dormouse-upload-" + rand.Text()
	w.hide(temp, true)
	defer w.hide(temp, false)

	parent := folder(-1)
	var file *os.File
	err := w.identity.asKernel(func() (err error) {
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
	f, err := w.fill(file, name, body)
	err = errors.Join(err, file.Close())
	if err == nil {
		err = w.identity.asKernel(func() error { return parent.rename(temp, path.Base(name)) })
	}
	if err != nil {
		_ = w.identity.asKernel(func() error { return parent.remove(temp) })
		return sandbox.File{}, w.explain(name, err)
	}
	return f, nil
}

// fill copies body into the new file and returns the file's name, size and modification time. It returns an
// error if body has more than MaxFileBytes.
func (w *workspace) fill(file *os.File, name string, body io.Reader) (sandbox.File, error) {
	limited := io.LimitReader(body, sandbox.MaxFileBytes+1)
	// The struct types hide all methods but Write and Read, so that io.CopyBuffer uses the buffer.
	n, err := io.CopyBuffer(struct{ io.Writer }{file}, struct{ io.Reader }{limited}, make([]byte, copyBytes))
	if err != nil {
		return sandbox.File{}, err
	}
	if n > sandbox.MaxFileBytes {
		return sandbox.File{}, sandbox.FileTooLarge(name)
	}
	st, err := file.Stat()
	if err != nil {
		return sandbox.File{}, err
	}
	return sandbox.File{Path: name, Size: n, ModTime: st.ModTime().UTC()}, nil
}

// open opens a regular file, and returns it with its current size. The caller closes the file.
func (w *workspace) open(name string) (file *os.File, st fs.FileInfo, err error) {
	err = w.identity.asKernel(func() (err error) {
		parent, err := w.openParent(name, false)
		if err != nil {
			return err
		}
		defer parent.close()
		// The type is checked before the file is opened, because opening a device can have effects.
		if st, err = parent.lstat(path.Base(name)); err != nil {
			return err
		}
		if !st.Mode().IsRegular() {
			return notRegular(name, st.Mode())
		}
		// O_NONBLOCK is needed because the file may have been replaced by a named pipe since the check. open would wait
		// there for a writer.
		file, err = parent.open(path.Base(name), syscall.O_RDONLY|syscall.O_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return nil, nil, w.explain(name, err)
	}
	if st, err = file.Stat(); err == nil && !st.Mode().IsRegular() {
		err = notRegular(name, st.Mode())
	}
	if err != nil {
		file.Close()
		return nil, nil, w.explain(name, err)
	}
	return file, st, nil
}

func notRegular(name string, mode fs.FileMode) error {
	next := "only code can use it"
	switch {
	case mode.IsDir():
		next = "list it with code"
	case mode&fs.ModeSymlink != 0:
		next = "name the file that it leads to"
	}
	return sandbox.Errorf(sandbox.Invalid, "%q is a %s, not a regular file: %s", sandbox.Quote(name), kindOf(mode), next)
}

// kindOf returns a name for a type of file that is not regular.
func kindOf(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "folder"
	case mode&fs.ModeSymlink != 0:
		return "symbolic link"
	case mode&fs.ModeNamedPipe != 0:
		return "named pipe"
	case mode&fs.ModeSocket != 0:
		return "socket"
	case mode&fs.ModeDevice != 0:
		return "device"
	}
	return "special file"
}

// explain turns the error of a system call on the file name into an error that a user understands.
func (w *workspace) explain(name string, err error) error {
	if e, ok := errors.AsType[*sandbox.Error](err); ok {
		return e
	}
	quoted := sandbox.Quote(name)
	var e *sandbox.Error
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e = sandbox.Errorf(sandbox.NotFound, "there is no file %q in %s", quoted, sandbox.Workspace)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		e = sandbox.Errorf(sandbox.Limit, "%s is full: it holds %s and a limited number of files; delete some with code", sandbox.Workspace, size(w.capacity))
	case errors.Is(err, fs.ErrPermission):
		e = sandbox.Errorf(sandbox.Invalid, "the sandbox's own user has no permission for %q", quoted)
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

func (w *workspace) hide(name string, yes bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if yes {
		w.uploads[name] = true
	} else {
		delete(w.uploads, name)
	}
}

func (w *workspace) hidden(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.uploads[name]
}

// used returns how many bytes the workspace's files take.
func (w *workspace) used() int64 { return mountUsed(w.dir) }
