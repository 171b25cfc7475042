//go:build linux

package supervisor

import (
	"fmt"
	"io"
	"os"
)

// blob is append-only bytes: in memory while there are few, in a file of its own once there
// are many. The file is open while it grows, and is opened for each reading after that, so that a
// thousand remembered executions hold no descriptors. Its owner serialises all but readAt.
type blob struct {
	path string
	mem  []byte
	file *os.File
	size int64
	done bool // file was closed by finish
}

// spillAt is how much stays in memory.
const spillAt = 16 << 10

// append adds p and returns where it is.
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
			return 0, fmt.Errorf("keep output: %w", err)
		}
		if _, err := f.WriteAt(b.mem, 0); err != nil {
			f.Close()
			os.Remove(b.path)
			return 0, fmt.Errorf("keep output: %w", err)
		}
		b.file = f
	}
	// A short write leaves garbage beyond size, which the next one covers.
	if _, err := b.file.WriteAt(p, at); err != nil {
		return 0, fmt.Errorf("keep output: %w", err)
	}
	b.size += int64(len(p))
	return at, nil
}

// view is a blob as it was at one moment; it can be read while the blob grows.
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
		v.mem = []byte{} // nothing yet, and no file to look for
	}
	return v
}

// open makes readAt usable and returns what ends that.
func (v *view) open() (func(), error) {
	if v.mem != nil || v.file != nil {
		return func() {}, nil
	}
	f, err := os.Open(v.path)
	if err != nil {
		return nil, fmt.Errorf("read kept output: %w", err)
	}
	v.file = f
	return func() { f.Close() }, nil
}

// readAt returns n bytes from position at.
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
		return nil, fmt.Errorf("read kept output: %w", err)
	}
	return p, nil
}

// finish says that no more comes.
func (b *blob) finish() {
	if b.file != nil && !b.done {
		b.file.Close()
		b.done = true
	}
}

// remove gives the space back.
func (b *blob) remove() {
	b.finish()
	if b.file != nil {
		os.Remove(b.path)
	}
	b.mem, b.size = nil, 0
}
