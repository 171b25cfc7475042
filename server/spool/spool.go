// Package spool keeps long strings of JSON messages on disk instead of in memory, on
// their way in and out. It knows JSON, and nothing of what messages mean.
//
//   - spool.go: the folder, and how much of the disk it may use
//   - message.go: a message on its way in: a string over 64 KiB becomes a token, "spool:<nonce>:<n>"
//   - unescape.go: what such a string says, as bytes on disk
//   - outbox.go: an answer on its way out: a token becomes the base64 of a file
//
// A nonce has 130 random bits, belongs to one message and never leaves the process, so that
// nobody can write a token: a client's or a program's own "spool:…" is ordinary text.
package spool

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Folder is where files are, and what they may take of the disk together. A nil
// *Folder is none: everything stays in memory.
type Folder struct {
	path string
	most int64

	mu   sync.Mutex
	used int64
}

// Most is how many bytes the messages in flight of a process may have on disk together.
const Most = 2 << 30

// ErrBusy says that other messages have all the room now.
var ErrBusy = errors.New("too many large messages at once: try again in a moment")

// ErrDisk says that the disk did not take a message.
var ErrDisk = errors.New("the disk of the Dormouse server is full, or can't be written to")

const prefix = "dormouse-"

// Open makes the folder if it is not there, for this user alone, and removes what a
// crash has left in it. Several processes may share it. most may be 0, for [Most].
func Open(path string, most int64) (*Folder, error) {
	if most == 0 {
		most = Most
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make spool folder: %w", err)
	}
	// A file loses its name as soon as it is open, so what has a name was left behind, or
	// would lose it now. (On Windows a file in use keeps its name, and can't be removed.)
	left, err := filepath.Glob(filepath.Join(path, prefix+"*"))
	if err != nil {
		return nil, fmt.Errorf("clean spool folder: %w", err)
	}
	for _, name := range left {
		_ = os.Remove(name)
	}
	return &Folder{path: path, most: most}, nil
}

// Used returns how many bytes are on disk.
func (f *Folder) Used() int64 {
	if f == nil {
		return 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.used
}

func (f *Folder) take(n int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.used+n > f.most {
		return false
	}
	f.used += n
	return true
}

func (f *Folder) give(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.used -= n
}

// store is the file of one message, with one section for each long string. It is made
// when the first byte comes.
type store struct {
	folder   *Folder
	nonce    string
	file     *os.File
	w        *bufio.Writer
	held     int64 // of the folder's room
	size     int64
	sections []section
}

type section struct{ offset, size int64 }

// step is how much of the folder's room is taken at a time.
const step = 1 << 20

// chunk is how much goes to or from the disk at a time.
const chunk = 512 << 10

// writers gather what is small; a piece that fills one goes to the disk as it is.
var writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, 32<<10) }}

// begin opens a section and returns the token that stands for it.
func (s *store) begin() (token string, err error) {
	if s.file == nil {
		if err := s.create(); err != nil {
			return "", err
		}
	}
	if s.w == nil {
		s.w = writers.Get().(*bufio.Writer)
		s.w.Reset(s.file)
	}
	s.sections = append(s.sections, section{offset: s.size})
	return s.prefix() + strconv.Itoa(len(s.sections)-1), nil
}

// prefix is how the tokens of this message begin.
func (s *store) prefix() string { return "spool:" + s.nonce + ":" }

func (s *store) create() error {
	file, err := os.CreateTemp(s.folder.path, prefix)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDisk, err)
	}
	_ = os.Remove(file.Name()) // a crash leaves nothing; Windows removes it in close
	s.file, s.nonce = file, rand.Text()
	return nil
}

// Write adds to the last section.
func (s *store) Write(p []byte) (int, error) {
	if more := s.size + int64(len(p)) - s.held; more > 0 {
		more = max(more, step)
		if !s.folder.take(more) {
			return 0, ErrBusy
		}
		s.held += more
	}
	n, err := s.w.Write(p)
	s.size += int64(n)
	s.sections[len(s.sections)-1].size += int64(n)
	return n, onDisk(err)
}

// flush makes what was written readable.
func (s *store) flush() error {
	if s.w == nil {
		return nil
	}
	err := s.w.Flush()
	s.dropWriter()
	return onDisk(err)
}

func (s *store) dropWriter() {
	if s.w != nil {
		s.w.Reset(nil)
		writers.Put(s.w)
		s.w = nil
	}
}

func onDisk(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return ErrDisk
	}
	return fmt.Errorf("%w: %w", ErrDisk, err)
}

// find returns the section that a token names.
func (s *store) find(token string) (section, bool) {
	if s.file == nil || !strings.HasPrefix(token, s.prefix()) {
		return section{}, false
	}
	digits := token[len(s.prefix()):]
	n, err := strconv.Atoi(digits)
	if err != nil || n < 0 || n >= len(s.sections) || strconv.Itoa(n) != digits {
		return section{}, false
	}
	return s.sections[n], true
}

func (s *store) open(at section) *io.SectionReader {
	return io.NewSectionReader(s.file, at.offset, at.size)
}

// close removes the file. It may be called twice.
func (s *store) close() {
	s.dropWriter()
	if s.file != nil {
		name := s.file.Name()
		_ = s.file.Close()
		_ = os.Remove(name) // where that could not be done while it was open
		s.file = nil
	}
	if s.held > 0 {
		s.folder.give(s.held)
		s.held = 0
	}
}
