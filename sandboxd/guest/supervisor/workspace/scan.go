//go:build linux

package workspace

import (
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Limits of one scan of the workspace.
const (
	maxDepth   = 16
	maxEntries = 20_000
)

// ignoredNames contains the names of folders that tools create and users don't expect among their files.
var ignoredNames = map[string]bool{"__pycache__": true, ".ipynb_checkpoints": true}

// stamp is the metadata that changes when a file changes.
type stamp struct {
	ino          uint64
	size         int64
	mtime, ctime int64
	mode         uint32
}

func (s stamp) regular() bool { return s.mode&syscall.S_IFMT == syscall.S_IFREG }

// fileMode returns the type of the file as an fs.FileMode.
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

// Scan is the metadata of the workspace's files at one moment, up to the limits of a scan.
type Scan struct {
	files   map[string]stamp // the metadata of all files except folders, by path
	order   []string
	omitted []sandbox.OmittedFile
	visited int
	full    bool
}

// Scan scans the workspace with the rights of the kernels' user. If the guest can't act as that user, the result is
// empty.
func (w *Workspace) Scan() *Scan {
	var s *Scan
	if err := w.asKernel(func() error { s = w.walk(); return nil }); err != nil {
		return &Scan{}
	}
	return s
}

// walk scans the workspace without following links. The caller must already act as the kernels' user.
func (w *Workspace) walk() *Scan {
	s := &Scan{files: map[string]stamp{}}
	const atFDCWD = -100 // the value of AT_FDCWD; openat ignores its first argument if the path is absolute
	fd, err := openFolderAt(atFDCWD, w.dir)
	if err != nil {
		s.omit("", "the sandbox's user can't read the workspace")
		return s
	}
	w.walkDir(s, fd, "", 1)
	return s
}

// walkDir scans one folder and closes fd. It resolves every name relative to the open folder, so renaming a folder
// during the scan can't lead the scan out of the workspace. It uses raw descriptors, because [os.File] makes additional
// system calls and a scan runs before and after every execution.
func (w *Workspace) walkDir(s *Scan, fd int, prefix string, depth int) {
	defer syscall.Close(fd)
	buf := make([]byte, direntBytes)
	var names []string
	for !s.full {
		n, err := syscall.ReadDirent(fd, buf)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			s.omit(prefix, "the sandbox's user can't read this folder")
			return
		}
		if n == 0 {
			return
		}
		_, _, names = syscall.ParseDirent(buf[:n], -1, names[:0])
		for _, name := range names {
			if ignoredNames[name] || w.hidden(name) {
				continue
			}
			if s.visited++; s.visited > maxEntries {
				s.full = true
				s.omit(prefix, fmt.Sprintf("there are more than %d files and folders; the others are not listed", maxEntries))
				return
			}
			w.visit(s, fd, name, prefix+name, depth)
		}
	}
}

const direntBytes = 8 << 10

func (w *Workspace) visit(s *Scan, dir int, name, path string, depth int) {
	var st syscall.Stat_t
	if err := lstatAt(dir, name, &st); err != nil {
		return // the file has been removed since the folder was read
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFDIR {
		s.files[path] = stamp{ino: st.Ino, size: st.Size, mtime: st.Mtim.Nano(), ctime: st.Ctim.Nano(), mode: st.Mode}
		s.order = append(s.order, path)
		return
	}
	if depth >= maxDepth {
		s.omit(path, "this folder is too deep: its files are not listed")
		return
	}
	sub, err := openFolderAt(dir, name)
	if err != nil {
		s.omit(path, "the sandbox's user can't read this folder")
		return
	}
	w.walkDir(s, sub, path+"/", depth+1)
}

func openFolderAt(dir int, name string) (int, error) {
	return syscall.Openat(dir, name, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0)
}

func lstatAt(dir int, name string, st *syscall.Stat_t) error {
	p, err := syscall.BytePtrFromString(name)
	if err != nil {
		return err
	}
	const noFollow = 0x100 // AT_SYMLINK_NOFOLLOW
	_, _, errno := syscall.Syscall6(sysFstatat, uintptr(dir), uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(st)), noFollow, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func (s *Scan) omit(path, reason string) {
	path = strings.TrimSuffix(path, "/")
	if path == "" {
		path = "."
	}
	s.omitted = append(s.omitted, sandbox.OmittedFile{Path: strings.ToValidUTF8(path, "\uFFFD"), Reason: reason})
}
