package tools

import (
	"io"
	"os"
	"path/filepath"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// openLocal opens a file of the host, to send it to a sandbox. It opens only files below the folders that the user
// allowed, regardless of how the path is written and which links it contains. It first compares only names, so that its
// errors reveal nothing about files outside of these folders. Then it opens the file with os.Root, which cannot leave
// the folder. The caller must close the file.
func (t *toolset) openLocal(name string) (io.ReadCloser, error) {
	if len(t.allowed) == 0 {
		return nil, invalid("local_path is off: no folder is allowed. The user can allow one by starting dormouse with --allow-dir FOLDER; until then send the file as text or base64")
	}
	if !filepath.IsAbs(name) {
		return nil, invalid("local_path %q is not absolute: give the whole path", sandbox.Quote(name))
	}
	for _, dir := range t.allowed {
		real, err := filepath.EvalSymlinks(dir)
		if err != nil {
			continue // dir cannot be used, for example because it does not exist now
		}
		real, err = filepath.Abs(real)
		if err != nil {
			continue
		}
		for _, base := range []string{dir, real} {
			if rel, ok := below(base, name); ok {
				return openBelow(real, rel, name)
			}
		}
	}
	return nil, invalid("local_path %q is not below a folder that the user allowed: the user can allow one by starting dormouse with --allow-dir FOLDER; or send the file as text or base64", sandbox.Quote(name))
}

// below returns the path of name relative to base, and whether name is below base.
func below(base, name string) (string, bool) {
	base, err := filepath.Abs(base)
	if err != nil {
		return "", false
	}
	rel, err := filepath.Rel(base, filepath.Clean(name))
	return rel, err == nil && rel != "." && filepath.IsLocal(rel)
}

// openBelow opens the file rel in the folder dir. The path dir must not contain links. os.Root rejects absolute links,
// even those that lead to a file in dir. Therefore openBelow resolves links first, and then opens the resolved path
// with os.Root. name is the path for errors.
func openBelow(dir, rel, name string) (io.ReadCloser, error) {
	if real, err := filepath.EvalSymlinks(filepath.Join(dir, rel)); err == nil {
		inside, ok := below(dir, real)
		if !ok {
			return nil, invalid("local_path %q leads out of the folder that the user allowed", sandbox.Quote(name))
		}
		rel = inside
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, unreadable(name, err)
	}
	defer root.Close()
	// Another program may replace the file at any time, so newLocalFile checks the file after it was opened. The file
	// may be a FIFO: with openWithoutWaiting, opening it does not wait for a writer. It may be a link: os.Root does not
	// follow it out of the folder.
	f, err := root.OpenFile(rel, os.O_RDONLY|openWithoutWaiting, 0)
	if err != nil {
		return nil, unreadable(name, err)
	}
	local, err := newLocalFile(f, name)
	if err != nil {
		f.Close()
		return nil, err
	}
	return local, nil
}

// localFile is a regular file. It is read only up to the size that it had when it was opened, because a file that grows
// may never end.
type localFile struct {
	*os.File
	name string
	size int64 // the file's size when it was opened; 0: unknown, as for files in /proc
	read int64 // the number of bytes read so far
}

func newLocalFile(f *os.File, name string) (*localFile, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, unreadable(name, err)
	}
	switch {
	case info.IsDir():
		return nil, invalid("local_path %q is a folder: name the files one by one", sandbox.Quote(name))
	case !info.Mode().IsRegular():
		return nil, invalid("local_path %q is not a regular file", sandbox.Quote(name))
	}
	return &localFile{File: f, name: name, size: info.Size()}, nil
}

func (f *localFile) Read(p []byte) (int, error) {
	if f.size > 0 {
		if f.read == f.size {
			return 0, io.EOF
		}
		p = p[:min(int64(len(p)), f.size-f.read)]
	}
	n, err := f.File.Read(p)
	f.read += int64(n)
	if err == io.EOF && f.read < f.size {
		err = sandbox.Errorf(sandbox.Invalid, "local_path %q became shorter while it was read: %d of %d bytes were left; send it again when nothing writes to it", sandbox.Quote(f.name), f.read, f.size)
	}
	return n, err
}

func unreadable(name string, err error) error {
	why := "cannot be read"
	switch {
	case os.IsNotExist(err):
		why = "does not exist"
	case os.IsPermission(err):
		why = "cannot be read by dormouse, which lacks the permission"
	}
	return sandbox.Errorf(sandbox.Invalid, "local_path %q %s", sandbox.Quote(name), why).WithCause(err)
}
