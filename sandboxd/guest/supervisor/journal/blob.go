package journal

import (
	"fmt"
	"io"
	"os"
)

// blob is an append-only sequence of bytes. Up to spillAt bytes are in memory; a larger blob is in its own file. The
// file stays open until finish is called. After that, each read opens the file, so that a thousand stored executions
// need no descriptors. The methods of blob must not be called concurrently, but a view may be read at any time.
type blob struct {
	path string
	mem  []byte
	file *os.File
	size int64
	done bool // finish has closed file
}

// spillAt is the number of bytes up to which a blob stays in memory.
const spillAt = 16 << 10

// append adds p and returns the position of p in the blob.
func (b *blob) append(p []byte) (at int64, err error) {
	at = b.size
	if b.file == nil && len(b.mem)+len(p) <= spillAt {
		b.mem = append(b.mem, p...)
		b.size += int64(len(p))
		return at, nil
	}
	if b.file == nil {
		f, err := os.OpenFile(b.path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if err != nil {
			return 0, fmt.Errorf("store output: %w", err)
		}
		if _, err := f.WriteAt(b.mem, 0); err != nil {
			f.Close()
			os.Remove(b.path)
			return 0, fmt.Errorf("store output: %w", err)
		}
		b.file = f
	}
	// A failed write can leave bytes beyond size, which the next write overwrites.
	if _, err := b.file.WriteAt(p, at); err != nil {
		return 0, fmt.Errorf("store output: %w", err)
	}
	b.size += int64(len(p))
	return at, nil
}

// view is the content of a blob at one moment. It can be read while the blob grows.
type view struct {
	path string
	mem  []byte
	file *os.File
}

func (b *blob) view() view {
	v := view{path: b.path, mem: b.mem, file: b.file}
	if b.done {
		v.file = nil
	}
	switch {
	case b.file != nil:
		v.mem = nil
	case v.mem == nil:
		v.mem = []byte{} // the blob is empty and has no file to open
	}
	return v
}

// open opens the blob's file if readAt needs it. The caller must call open before readAt, and the returned function
// after the last readAt.
func (v *view) open() (func(), error) {
	if v.mem != nil || v.file != nil {
		return func() {}, nil
	}
	f, err := os.Open(v.path)
	if err != nil {
		return nil, fmt.Errorf("read stored output: %w", err)
	}
	v.file = f
	return func() { f.Close() }, nil
}

// readAt returns n bytes from the position at. The caller must not change them.
func (v *view) readAt(at int64, n int) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	if v.mem != nil {
		if at+int64(n) > int64(len(v.mem)) {
			return nil, io.ErrUnexpectedEOF
		}
		return v.mem[at : at+int64(n)], nil
	}
	p := make([]byte, n)
	if _, err := v.file.ReadAt(p, at); err != nil {
		return nil, fmt.Errorf("read stored output: %w", err)
	}
	return p, nil
}

// finish closes the file. Nothing may be appended afterwards.
func (b *blob) finish() {
	if b.file != nil && !b.done {
		b.file.Close()
		b.done = true
	}
}

// remove deletes the content and the file.
func (b *blob) remove() {
	b.finish()
	if b.file != nil {
		os.Remove(b.path)
	}
	b.mem, b.size = nil, 0
}
