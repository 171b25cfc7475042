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

// Listener accepts the streams that come over two pipes, one after another.
type Listener struct {
	pipes Pipes
	free  chan struct{} // holds a value while there is no stream
}

// Listen returns a listener on this program's stdin and stdout, which must be pipes.
func Listen() (*Listener, error) {
	in, err := take(syscall.Stdin, "stdin")
	if err != nil {
		return nil, err
	}
	out, err := take(syscall.Stdout, "stdout")
	if err != nil {
		in.Close()
		return nil, err
	}
	return newListener(Pipes{in, out}), nil
}

// take returns a descriptor under another number, which can be polled and which no program that we start has.
func take(fd int, name string) (*os.File, error) {
	own, _, e := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_DUPFD_CLOEXEC, 3)
	if e != 0 {
		return nil, fmt.Errorf("take %s: %w", name, e)
	}
	if err := syscall.SetNonblock(int(own), true); err != nil {
		syscall.Close(int(own))
		return nil, fmt.Errorf("take %s: %w", name, err)
	}
	return os.NewFile(own, name), nil
}

func newListener(p Pipes) *Listener {
	l := &Listener{pipes: p, free: make(chan struct{}, 1)}
	l.free <- struct{}{}
	return l
}

// Accept implements [net.Listener].
func (l *Listener) Accept() (net.Conn, error) {
	<-l.free
	ticket, err := l.ticket()
	if err != nil {
		return nil, fmt.Errorf("wait for a stream: %w", err)
	}
	c := &accepted{half: half{Pipes: l.pipes}, ticket: ticket, free: l.free}
	_, _ = c.Write([]byte{Joined}) // who has gone already is noticed by who reads
	return c, nil
}

// ticket waits for a stream to begin.
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
				// Nobody holds the other end any more. In the next life of the sandbox this is another pipe, and can be read again: the
				// poller tells, and not before.
				have = 0
				return false
			}
			have += n
		}
		return true
	})
	return ticket, errors.Join(err, failed)
}

// Close implements [net.Listener]. The guest listens for as long as it lives.
func (l *Listener) Close() error { return nil }

// Addr implements [net.Listener].
func (l *Listener) Addr() net.Addr { return address{} }

// accepted is the guest's side of a stream.
type accepted struct {
	half
	ticket []byte
	free   chan struct{}
}

// Close ends the stream. When the engine has closed its end, it is told that we have, and the next stream can come.
func (c *accepted) Close() error {
	if c.end() {
		go func() {
			_, _ = io.Copy(io.Discard, c.In)
			_ = c.Out.SetWriteDeadline(time.Now().Add(lastWords))
			_, _ = c.Out.Write(c.ticket) // whom it does not reach does not wait for it
			_ = c.Out.SetWriteDeadline(time.Time{})
			c.free <- struct{}{}
		}()
	}
	return nil
}
