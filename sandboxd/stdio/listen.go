//go:build linux

package stdio

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// Listener is the guest's side of the streams over its own stdin and stdout. It accepts one stream after another. It
// implements [net.Listener].
type Listener struct {
	pipes Pipes
	free  chan struct{} // has capacity 1; holds a value if neither a stream nor Accept uses the pipes

	onDisconnect func() // called when the engine's end turns out to be closed; for tests; nil otherwise
}

// Listen returns a listener on the stdin and stdout of the current process, which must be pipes.
func Listen() (*Listener, error) {
	in, err := dupDescriptor(syscall.Stdin, "stdin")
	if err != nil {
		return nil, err
	}
	out, err := dupDescriptor(syscall.Stdout, "stdout")
	if err != nil {
		in.Close()
		return nil, err
	}
	return newListener(Pipes{in, out}), nil
}

// dupDescriptor returns a duplicate of the descriptor fd. It is non-blocking, so that reads and writes on it can have
// deadlines, and close-on-exec, so that the programs that the guest starts don't inherit it. name is used in errors.
func dupDescriptor(fd int, name string) (*os.File, error) {
	own, _, e := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_DUPFD_CLOEXEC, 3)
	if e != 0 {
		return nil, fmt.Errorf("duplicate %s: %w", name, e)
	}
	if err := syscall.SetNonblock(int(own), true); err != nil {
		syscall.Close(int(own))
		return nil, fmt.Errorf("make %s non-blocking: %w", name, err)
	}
	return os.NewFile(own, name), nil
}

func newListener(p Pipes) *Listener {
	l := &Listener{pipes: p, free: make(chan struct{}, 1)}
	l.free <- struct{}{}
	return l
}

// Accept implements [net.Listener]. It waits until the previous stream has been closed by both sides.
func (l *Listener) Accept() (net.Conn, error) {
	<-l.free
	ticket, err := l.ticket()
	if err != nil {
		return nil, fmt.Errorf("wait for a stream: %w", err)
	}
	c := &acceptedStream{streamSide: streamSide{Pipes: l.pipes}, ticket: ticket, free: l.free}
	_, _ = c.Write([]byte{Joined}) // if the engine has closed the stream already, the first Read reports it
	return c, nil
}

// ticket waits until the engine starts a stream, and returns the ticket that the engine sends.
func (l *Listener) ticket() (ticket []byte, err error) {
	raw, err := l.pipes.In.SyscallConn()
	if err != nil {
		return nil, err
	}
	ticket = make([]byte, ticketBytes)
	have := 0
	var failed error
	err = raw.Read(func(fd uintptr) (done bool) {
		for have < ticketBytes {
			n, err := syscall.Read(int(fd), ticket[have:])
			switch {
			case err == syscall.EINTR:
				continue
			case err == syscall.EAGAIN:
				return false
			case err != nil:
				failed = err
				return true
			case n == 0:
				// The engine has closed the other end, so discard a partial ticket. After the next restore, the
				// descriptor refers to a new pipe, and the poller reports when that is readable. A read before then
				// would return the end of the file again.
				have = 0
				if l.onDisconnect != nil {
					l.onDisconnect()
				}
				return false
			}
			have += n
		}
		return true
	})
	return ticket, errors.Join(err, failed)
}

// Close implements [net.Listener]. It does nothing, because the guest listens until it exits.
func (l *Listener) Close() error { return nil }

// Addr implements [net.Listener].
func (l *Listener) Addr() net.Addr { return address{} }

// acceptedStream is the guest's side of one stream.
type acceptedStream struct {
	streamSide
	ticket []byte
	free   chan struct{}
}

// Close closes the stream and returns at once. In the background it then waits until the engine has closed its end,
// sends the ticket back, and lets Accept wait for the next stream.
func (c *acceptedStream) Close() error {
	if c.end() {
		go func() {
			_, _ = io.Copy(io.Discard, c.In)
			_ = c.Out.SetWriteDeadline(time.Now().Add(drainTimeout))
			_, _ = c.Out.Write(c.ticket) // if Write fails, the engine stops waiting after drainTimeout
			_ = c.Out.SetWriteDeadline(time.Time{})
			c.free <- struct{}{}
		}()
	}
	return nil
}
