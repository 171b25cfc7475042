// Package spool stores the long strings of JSON messages on disk instead of in memory. Package server uses it for incoming
// messages and outgoing answers. It parses JSON, but it does not interpret messages.
//
//   - spool.go: [Folder], which limits the disk space of all messages, and store, the file of one message
//   - message.go: [Message], which reads an incoming message and replaces each string over 64 KiB by a placeholder,
//     "spool:<nonce>:<n>", which the code calls a token
//   - unescape.go: unescaping such a string before it is written to disk
//   - outbox.go: [Outbox], which writes an answer and replaces each placeholder by the base64 of a file
//
// A nonce has 130 random bits, belongs to one message and never leaves the process, so that no client and no sandbox can
// forge a placeholder: if one of them sends "spool:…", the text stays as it is.
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

// Folder is the folder of the files, with a limit on their total size. It counts bytes itself and does not use wire.Budget,
// because this limit does not distinguish owners and this package does not depend on the daemon. With a nil *Folder, all
// strings stay in memory. The methods of Folder may be called concurrently.
type Folder struct {
	path    string
	maximum int64 // the maximum value of the field used

	mu   sync.Mutex
	used int64 // the number of bytes that all files together have reserved
}

// Most is the default limit, in bytes, of all files of one process in a folder.
const Most = 2 << 30

// ErrBusy is returned when other messages use all the disk space that the folder's limit allows.
var ErrBusy = errors.New("too many large messages at once: try again in a moment")

// ErrDisk is returned when writing to the disk fails.
var ErrDisk = errors.New("the disk of the Dormouse server is full, or can't be written to")

const prefix = "dormouse-"

// Open opens the folder at path. It creates the folder if necessary, accessible only to this user, and removes files that a
// crash has left. Several processes may share the folder. maximum is the limit in bytes of this process's files; 0 means
// [Most].
func Open(path string, maximum int64) (*Folder, error) {
	if maximum == 0 {
		maximum = Most
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make spool folder: %w", err)
	}
	// A file is unlinked right after it was created. So a file that still has a name was left by a crash, or another process
	// is about to unlink it, and removing it is safe. (On Windows a file in use keeps its name, but can't be removed.)
	left, err := filepath.Glob(filepath.Join(path, prefix+"*"))
	if err != nil {
		return nil, fmt.Errorf("clean spool folder: %w", err)
	}
	for _, name := range left {
		_ = os.Remove(name)
	}
	return &Folder{path: path, maximum: maximum}, nil
}

// Used returns how many bytes of the limit the files have reserved.
func (f *Folder) Used() int64 {
	if f == nil {
		return 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.used
}

func (f *Folder) reserve(n int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.used+n > f.maximum {
		return false
	}
	f.used += n
	return true
}

func (f *Folder) release(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.used -= n
}

// store is the file of one message, with one section for each long string. The file is created with the first section.
type store struct {
	folder   *Folder
	nonce    string
	file     *os.File
	w        *bufio.Writer
	reserved int64 // the number of bytes that this file has reserved in the folder
	size     int64
	sections []section
}

type section struct{ offset, size int64 }

// reserveStep is the minimum number of bytes that a store reserves in the folder at a time.
const reserveStep = 1 << 20

// chunk is the size in bytes of the pieces in which an outbox stores a file and encodes it in base64.
const chunk = 512 << 10

// writers contains buffered writers, which collect small pieces of a string before they write them to the disk. A piece that
// is larger than the buffer is written directly.
var writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, 32<<10) }}

// begin begins a new section and returns the placeholder for its string.
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

// prefix returns the beginning that all placeholders of this message have in common.
func (s *store) prefix() string { return "spool:" + s.nonce + ":" }

func (s *store) create() error {
	file, err := os.CreateTemp(s.folder.path, prefix)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDisk, err)
	}
	_ = os.Remove(file.Name()) // a crash then leaves no file; on Windows the removal fails, and close removes the file
	s.file, s.nonce = file, rand.Text()
	return nil
}

// Write appends p to the last section. It returns ErrBusy if the folder's limit is reached.
func (s *store) Write(p []byte) (int, error) {
	if more := s.size + int64(len(p)) - s.reserved; more > 0 {
		more = max(more, reserveStep)
		if !s.folder.reserve(more) {
			return 0, ErrBusy
		}
		s.reserved += more
	}
	n, err := s.w.Write(p)
	s.size += int64(n)
	s.sections[len(s.sections)-1].size += int64(n)
	return n, diskError(err)
}

// flush writes buffered bytes to the file, so that a reader that open has returned sees them.
func (s *store) flush() error {
	if s.w == nil {
		return nil
	}
	err := s.w.Flush()
	s.dropWriter()
	return diskError(err)
}

func (s *store) dropWriter() {
	if s.w != nil {
		s.w.Reset(nil)
		writers.Put(s.w)
		s.w = nil
	}
}

func diskError(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return ErrDisk
	}
	return fmt.Errorf("%w: %w", ErrDisk, err)
}

// find returns the section that the placeholder token stands for. It reports false if token is not a placeholder of this store.
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

// close removes the file and returns its bytes to the folder. It may be called more than once.
func (s *store) close() {
	s.dropWriter()
	if s.file != nil {
		name := s.file.Name()
		_ = s.file.Close()
		_ = os.Remove(name) // needed only on Windows, where create could not remove the file
		s.file = nil
	}
	if s.reserved > 0 {
		s.folder.release(s.reserved)
		s.reserved = 0
	}
}
