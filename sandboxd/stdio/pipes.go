package stdio

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// Pipes has all methods of a [net.Conn] except Close. It reads from the pipe In and writes to the pipe Out. Both files
// must support deadlines, as those of [os.Pipe] do.
type Pipes struct{ In, Out *os.File }

func (p Pipes) Read(b []byte) (int, error)  { return p.In.Read(b) }
func (p Pipes) Write(b []byte) (int, error) { return p.Out.Write(b) }

// LocalAddr implements [net.Conn]. A pipe has no address, so the result is a placeholder.
func (p Pipes) LocalAddr() net.Addr { return address{} }

// RemoteAddr implements [net.Conn]. Like LocalAddr, it returns a placeholder.
func (p Pipes) RemoteAddr() net.Addr { return address{} }

// SetDeadline implements [net.Conn].
func (p Pipes) SetDeadline(t time.Time) error {
	return errors.Join(p.SetReadDeadline(t), p.SetWriteDeadline(t))
}

// SetReadDeadline implements [net.Conn].
func (p Pipes) SetReadDeadline(t time.Time) error { return p.In.SetReadDeadline(t) }

// SetWriteDeadline implements [net.Conn].
func (p Pipes) SetWriteDeadline(t time.Time) error { return p.Out.SetWriteDeadline(t) }

type address struct{}

func (address) Network() string { return "pipe" }
func (address) String() string  { return "pipe" }

// streamSide is one side of a stream. After end has returned, the streamSide does not use its pipes any more, so the
// caller of end can use the pipes for the ticket and for the next stream.
type streamSide struct {
	Pipes
	reading, writing sync.Mutex // held during Read and during Write

	mu   sync.Mutex // guards the field over, and is held while a deadline is set, so that no deadline is set after the stream has ended
	over bool
}

func (h *streamSide) Read(b []byte) (int, error) {
	h.reading.Lock()
	defer h.reading.Unlock()
	if h.ended() {
		return 0, net.ErrClosed
	}
	return h.Pipes.Read(b)
}

func (h *streamSide) Write(b []byte) (int, error) {
	h.writing.Lock()
	defer h.writing.Unlock()
	if h.ended() {
		return 0, net.ErrClosed
	}
	return h.Pipes.Write(b)
}

func (h *streamSide) SetDeadline(t time.Time) error {
	return errors.Join(h.SetReadDeadline(t), h.SetWriteDeadline(t))
}

func (h *streamSide) SetReadDeadline(t time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		return net.ErrClosed
	}
	return h.Pipes.SetReadDeadline(t)
}

func (h *streamSide) SetWriteDeadline(t time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		return net.ErrClosed
	}
	return h.Pipes.SetWriteDeadline(t)
}

func (h *streamSide) ended() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.over
}

// end ends the use of the pipes: reads and writes in progress fail, and later calls return [net.ErrClosed]. The first
// call returns true after all reads and writes in progress have returned and the deadlines are cleared. Further calls
// return false at once.
func (h *streamSide) end() bool {
	h.mu.Lock()
	first := !h.over
	h.over = true
	if first {
		past := time.Unix(1, 0)
		_ = h.Pipes.SetDeadline(past) // unblocks reads and writes in progress; a closed pipe needs no deadline
	}
	h.mu.Unlock()
	if first {
		h.reading.Lock()
		defer h.reading.Unlock()
		h.writing.Lock()
		defer h.writing.Unlock()
		_ = h.Pipes.SetDeadline(time.Time{})
	}
	return first
}
