//go:build linux

package supervisor

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// pipeEnds collects a kernel's descriptors while they are made.
type pipeEnds struct {
	child []*os.File // in the order of their numbers
	ours  []*os.File
	err   error
}

// pipeBytes is how much a kernel can say before it waits for the guest.
const pipeBytes = 256 << 10

func (p *pipeEnds) fromChild() *os.File { r, _ := p.pipe(false); return r }
func (p *pipeEnds) toChild() *os.File   { _, w := p.pipe(true); return w }

func (p *pipeEnds) pipe(childReads bool) (r, w *os.File) {
	if p.err != nil {
		return nil, nil
	}
	if r, w, p.err = os.Pipe(); p.err != nil {
		return nil, nil
	}
	if childReads {
		p.child, p.ours = append(p.child, r), append(p.ours, w)
		return r, w
	}
	p.child, p.ours = append(p.child, w), append(p.ours, r)
	// Only a wish: the pipe works with less.
	if c, err := r.SyscallConn(); err == nil {
		_ = c.Control(func(fd uintptr) {
			_, _, _ = syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_SETPIPE_SZ, pipeBytes)
		})
	}
	return r, w
}

func (p *pipeEnds) closeChild() { closeAll(p.child) }
func (p *pipeEnds) closeOurs()  { closeAll(p.ours) }

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// pipeReader reads lines of at most maxMessage bytes.
type pipeReader struct {
	file     *os.File
	buf      []byte
	from, to int  // what is read and not yet returned
	skipping bool // in a line that is too long
}

func newPipeReader(f *os.File) *pipeReader {
	return &pipeReader{file: f, buf: make([]byte, pipeBytes)}
}

// next waits for at least one read and returns the lines that are complete, and how many
// were too long. The lines are valid until the next call.
func (r *pipeReader) next() (lines [][]byte, bad int, err error) {
	copy(r.buf, r.buf[r.from:r.to])
	r.from, r.to = 0, r.to-r.from
	if r.to == len(r.buf) {
		r.buf = append(r.buf, make([]byte, len(r.buf))...)
	}
	n, err := r.file.Read(r.buf[r.to:])
	scanned := r.to
	r.to += n
	for {
		i := bytes.IndexByte(r.buf[scanned:r.to], '\n')
		if i < 0 {
			break
		}
		line := r.buf[r.from : scanned+i]
		scanned += i + 1
		r.from = scanned
		switch {
		case r.skipping:
			r.skipping = false
		case len(line) > maxMessage:
			bad++
		case len(line) > 0:
			lines = append(lines, line)
		}
	}
	if r.to-r.from > maxMessage || r.skipping {
		if !r.skipping {
			bad++
		}
		r.skipping, r.from, r.to = true, 0, 0
	}
	if r.from == r.to && len(r.buf) > pipeBytes && len(lines) == 0 {
		r.buf, r.from, r.to = make([]byte, pipeBytes), 0, 0
	}
	return lines, bad, err
}

// finish ends reading at the end of what is there, or at the latest at t.
func (r *pipeReader) finish(t time.Time) {
	// The kernel is dead, so what it said is in the pipe: reads that would wait have read all.
	_ = r.file.SetReadDeadline(t)
}

// rawOutput is fd 1 or 2 of a kernel: whatever it and its subprocesses print without it.
type rawOutput struct {
	file *os.File
	conn syscall.RawConn
	sink func([]byte)

	mu   sync.Mutex // one reader at a time, so that bytes stay in order
	buf  []byte
	text decoder
}

func newRawOutput(f *os.File, sink func([]byte)) *rawOutput {
	conn, err := f.SyscallConn()
	if err != nil {
		conn = nil // a closed file; pump ends at once
	}
	return &rawOutput{file: f, conn: conn, sink: sink, buf: make([]byte, 64<<10)}
}

// pump reads whenever there is something, until the pipe ends or is closed.
func (o *rawOutput) pump() {
	if o.conn == nil {
		return
	}
	for ended := false; !ended; {
		err := o.conn.Read(func(fd uintptr) bool {
			n, err := o.read(fd)
			ended = err != nil && !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EINTR)
			return n > 0 || ended
		})
		if err != nil {
			return
		}
	}
}

// drain reads what is there now, at most what a pipe can hold.
func (o *rawOutput) drain() {
	if o.conn == nil {
		return
	}
	_ = o.conn.Control(func(fd uintptr) {
		for left := 1 << 20; left > 0; {
			n, err := o.read(fd)
			if n <= 0 || err != nil {
				return
			}
			left -= n
		}
	})
}

// read passes on one read of a descriptor that does not block.
func (o *rawOutput) read(fd uintptr) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err := syscall.Read(int(fd), o.buf)
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, io.EOF
	}
	o.sink(o.text.next(o.buf[:n]))
	return n, nil
}

// rest returns the replacement of a character that was never finished.
func (o *rawOutput) rest() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.rest()
}

// pipeWriter sends single bytes and never waits.
type pipeWriter struct{ file *os.File }

// signal sends a byte. A kernel that asks for more than it reads gets none.
func (w *pipeWriter) signal() {
	conn, err := w.file.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) { _, _ = syscall.Write(int(fd), []byte{'\n'}) })
}
