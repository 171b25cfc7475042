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

// pipeEnds collects the descriptors of a kernel while they are created, and the first error.
type pipeEnds struct {
	child []*os.File // the kernel's ends, in the order of their numbers in the kernel
	ours  []*os.File // the guest's ends
	err   error
}

// pipeBytes is how much a kernel can write before it must wait for the guest to read.
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
	// An error is ignored, because a smaller pipe also works.
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
	from, to int  // buf[from:to] has been read and not yet returned
	skipping bool // the rest of a line that is too long is being skipped
}

func newPipeReader(f *os.File) *pipeReader {
	return &pipeReader{file: f, buf: make([]byte, pipeBytes)}
}

// next waits for input, reads once, and returns the lines that are complete now and how many lines were too long. The
// lines are valid until the next call.
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

// finish makes reads fail after t if the pipe has not ended by then.
func (r *pipeReader) finish(t time.Time) {
	// The kernel is dead, so everything that it wrote is already in the pipe. Only other processes could still write.
	_ = r.file.SetReadDeadline(t)
}

// rawOutput reads fd 1 or 2 of a kernel, where output arrives that is not sent as messages, for example of
// subprocesses.
type rawOutput struct {
	file *os.File
	conn syscall.RawConn
	sink func([]byte) // called with the output as valid UTF-8

	mu   sync.Mutex // only one goroutine reads at a time, so that bytes stay in order
	buf  []byte
	text decoder
}

func newRawOutput(f *os.File, sink func([]byte)) *rawOutput {
	conn, err := f.SyscallConn()
	if err != nil {
		conn = nil // the file is closed; pump returns at once
	}
	return &rawOutput{file: f, conn: conn, sink: sink, buf: make([]byte, 64<<10)}
}

// pump reads output as it arrives, until the pipe ends or is closed.
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

// drain reads the output that is in the pipe now without waiting, at most as much as a pipe can hold.
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

// read reads once from a descriptor that does not block, and passes the text to sink.
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

// rest returns U+FFFD if the output ends in an incomplete character, and nothing otherwise.
func (o *rawOutput) rest() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.rest()
}

// pipeWriter writes single bytes without blocking.
type pipeWriter struct{ file *os.File }

// signal writes one byte. The byte is dropped if the pipe is full, because then the kernel does not read.
func (w *pipeWriter) signal() {
	conn, err := w.file.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) { _, _ = syscall.Write(int(fd), []byte{'\n'}) })
}
