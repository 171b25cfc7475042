//go:build linux

package workspace

import (
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Part is a part of a file that is open for reading. The caller must close it.
type Part struct {
	FileSize int64 // size of the whole file in bytes, when it was opened
	Length   int64 // size of the part in bytes

	file   *os.File
	offset int64
}

// OpenPart opens length bytes of a regular file from offset on, or fewer if the file ends earlier. A length below 0 means
// the rest of the file.
func (w *Workspace) OpenPart(filePath sandbox.Path, offset, length int64) (*Part, error) {
	name := string(filePath)
	file, st, err := w.open(name)
	if err != nil {
		return nil, err
	}
	size := st.Size()
	if offset > size {
		file.Close()
		return nil, sandbox.Errorf(sandbox.Invalid, "offset %d is beyond the end of %q, which has %d bytes", offset, sandbox.Quote(name), size)
	}
	if rest := size - offset; length < 0 || length > rest {
		length = rest
	}
	return &Part{FileSize: size, Length: length, file: file, offset: offset}, nil
}

// CopyTo writes the part to dst. It returns io.ErrUnexpectedEOF if the file has become too short.
func (p *Part) CopyTo(dst io.Writer) error {
	section := io.NewSectionReader(p.file, p.offset, p.Length)
	// The struct types hide all methods but Write and Read, so that io.CopyBuffer uses the buffer.
	n, err := io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{section}, make([]byte, min(copyBytes, p.Length+1)))
	if err == nil && n < p.Length {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// Close closes the file.
func (p *Part) Close() error { return p.file.Close() }

// open opens a regular file, and returns it with its current size. The caller closes the file.
func (w *Workspace) open(name string) (file *os.File, st fs.FileInfo, err error) {
	err = w.asKernel(func() (err error) {
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
