package stdio

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// Pipes are two pipes as a [net.Conn], but for what closes it: one that is read, and one that is written to. The files can be polled
// (which those of [os.Pipe] can).
type Pipes struct{ In, Out *os.File }

func (p Pipes) Read(b []byte) (int, error)  { return p.In.Read(b) }
func (p Pipes) Write(b []byte) (int, error) { return p.Out.Write(b) }

// LocalAddr implements [net.Conn]. A pipe has none.
func (p Pipes) LocalAddr() net.Addr { return address{} }

// RemoteAddr implements [net.Conn]. A pipe has none.
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

// half is one side of a stream. Its pipes are of use to others when it has ended.
type half struct {
	Pipes
	reading, writing sync.Mutex

	mu   sync.Mutex // of deadlines, which nobody may set any more when it has ended
	over bool
}

func (h *half) Read(b []byte) (int, error) {
	h.reading.Lock()
	defer h.reading.Unlock()
	if h.ended() {
		return 0, net.ErrClosed
	}
	return h.Pipes.Read(b)
}

func (h *half) Write(b []byte) (int, error) {
	h.writing.Lock()
	defer h.writing.Unlock()
	if h.ended() {
		return 0, net.ErrClosed
	}
	return h.Pipes.Write(b)
}

func (h *half) SetDeadline(t time.Time) error {
	return errors.Join(h.SetReadDeadline(t), h.SetWriteDeadline(t))
}

func (h *half) SetReadDeadline(t time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		return net.ErrClosed
	}
	return h.Pipes.SetReadDeadline(t)
}

func (h *half) SetWriteDeadline(t time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		return net.ErrClosed
	}
	return h.Pipes.SetWriteDeadline(t)
}

func (h *half) ended() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.over
}

// end makes this side end, and reports whether it had not yet. When it returns, nobody reads or writes any more, and nobody will.
func (h *half) end() bool {
	h.mu.Lock()
	first := !h.over
	h.over = true
	if first {
		past := time.Unix(1, 0)
		_ = h.Pipes.SetDeadline(past) // a pipe that was closed already needs none
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
