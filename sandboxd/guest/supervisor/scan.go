package supervisor

import (
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Limits of one look at the workspace.
const (
	maxDepth   = 16
	maxEntries = 20_000
)

// unseen are folders of tools that nobody means when they ask for the files.
var unseen = map[string]bool{"__pycache__": true, ".ipynb_checkpoints": true}

// stamp is what changes when a file does.
type stamp struct {
	ino          uint64
	size         int64
	mtime, ctime int64
	mode         uint32
}

func (s stamp) regular() bool { return s.mode&syscall.S_IFMT == syscall.S_IFREG }

// fileMode has the type in Go's form.
func (s stamp) fileMode() fs.FileMode {
	switch s.mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		return 0
	case syscall.S_IFDIR:
		return fs.ModeDir
	case syscall.S_IFLNK:
		return fs.ModeSymlink
	case syscall.S_IFIFO:
		return fs.ModeNamedPipe
	case syscall.S_IFSOCK:
		return fs.ModeSocket
	}
	return fs.ModeDevice
}

func (s stamp) modTime() time.Time { return time.Unix(0, s.mtime).UTC() }

// scan is what a look at the workspace found.
type scan struct {
	files   map[string]stamp // all but folders
	order   []string
	omitted []sandbox.OmittedFile
	visited int
	full    bool
}

// walk goes through the workspace without following a link, with the kernels' rights. The caller
// wears them already.
func (w *workspace) walk() *scan {
	s := &scan{files: map[string]stamp{}}
	dir, err := w.root.Open(".")
	if err != nil {
		s.omit("", "the workspace cannot be read by its own user")
		return s
	}
	w.walkDir(s, dir, "", 1)
	return s
}

// walkDir looks at one folder, which it closes. Every name is resolved from the open folder, so
// renaming folders meanwhile leads nowhere.
func (w *workspace) walkDir(s *scan, dir *os.File, prefix string, depth int) {
	defer dir.Close()
	conn, err := dir.SyscallConn()
	if err != nil {
		return
	}
	for !s.full {
		names, err := dir.Readdirnames(512)
		for _, name := range names {
			if unseen[name] || w.hidden(name) {
				continue
			}
			if s.visited++; s.visited > maxEntries {
				s.full = true
				s.omit(prefix, "there are more than 20000 files and folders; what came after was not looked at")
				return
			}
			w.visit(s, conn, name, prefix+name, depth)
		}
		if err != nil {
			if err != io.EOF {
				s.omit(prefix, "this folder cannot be read")
			}
			return
		}
	}
}

func (w *workspace) visit(s *scan, dir syscall.RawConn, name, path string, depth int) {
	var st syscall.Stat_t
	err := error(syscall.EBADF)
	_ = dir.Control(func(fd uintptr) { err = lstatAt(fd, name, &st) })
	if err != nil {
		return // gone already
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFDIR {
		s.files[path] = stamp{ino: st.Ino, size: st.Size, mtime: st.Mtim.Nano(), ctime: st.Ctim.Nano(), mode: st.Mode}
		s.order = append(s.order, path)
		return
	}
	if depth >= maxDepth {
		s.omit(path, "this folder is too deep to be looked at")
		return
	}
	sub, err := openFolderAt(dir, name)
	if err != nil {
		s.omit(path, "this folder cannot be read")
		return
	}
	w.walkDir(s, sub, path+"/", depth+1)
}

func openFolderAt(dir syscall.RawConn, name string) (*os.File, error) {
	fd, err := -1, error(syscall.EBADF)
	_ = dir.Control(func(at uintptr) {
		fd, err = syscall.Openat(int(at), name, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func lstatAt(dir uintptr, name string, st *syscall.Stat_t) error {
	p, err := syscall.BytePtrFromString(name)
	if err != nil {
		return err
	}
	const noFollow = 0x100 // AT_SYMLINK_NOFOLLOW
	_, _, errno := syscall.Syscall6(sysFstatat, dir, uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(st)), noFollow, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func (s *scan) omit(path, reason string) {
	path = strings.TrimSuffix(path, "/")
	if path == "" {
		path = "."
	}
	s.omitted = append(s.omitted, sandbox.OmittedFile{Path: strings.ToValidUTF8(path, "\uFFFD"), Reason: reason})
}
