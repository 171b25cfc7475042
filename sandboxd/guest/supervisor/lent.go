//go:build linux

package supervisor

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/stdio"
)

// lentListener accepts the daemon's connections. Who connects to the socket (`guest connect`, uid 0 like us) hands
// over the stdin and stdout that the engine gave it, and waits until we are done with them: bytes go
// between the engine and the guest without another process in between.
type lentListener struct{ *net.UnixListener }

// handOver is how long `guest connect` may take to hand its descriptors over.
const handOver = 5 * time.Second

func (l lentListener) Accept() (net.Conn, error) {
	for {
		lender, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		conn, err := borrow(lender)
		if err == nil {
			return conn, nil
		}
		lender.Close()
	}
}

// borrow takes the descriptors that come on a connection to the socket.
func borrow(lender *net.UnixConn) (net.Conn, error) {
	if err := lender.SetReadDeadline(time.Now().Add(handOver)); err != nil {
		return nil, err
	}
	oob := make([]byte, 64)
	_, n, _, _, err := lender.ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		return nil, err
	}
	messages, err := syscall.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return nil, err
	}
	if len(messages) != 1 {
		return nil, errors.New("no descriptors came")
	}
	fds, err := syscall.ParseUnixRights(&messages[0]) // no kernel inherits them: package net asks for close-on-exec
	if err != nil {
		return nil, err
	}
	for _, fd := range fds {
		err = errors.Join(err, syscall.SetNonblock(fd, true))
	}
	if err != nil || len(fds) != 2 {
		for _, fd := range fds {
			syscall.Close(fd)
		}
		return nil, errors.Join(err, fmt.Errorf("%d descriptors came, want 2", len(fds)))
	}
	s := &lentStream{lender: lender, Pipes: stdio.Pipes{In: os.NewFile(uintptr(fds[0]), "in"), Out: os.NewFile(uintptr(fds[1]), "out")}}
	_ = lender.SetReadDeadline(time.Time{})
	go func() { // the lender sends no more: this is its end
		_, _ = lender.Read(make([]byte, 1))
		s.Close()
	}()
	return s, nil
}

// lentStream is a program's stdin and stdout as a net.Conn.
type lentStream struct {
	stdio.Pipes
	lender *net.UnixConn
	once   sync.Once
}

// Close gives the descriptors back, and only then lets the lender go: when its process has ended, no stream is
// left in the sandbox.
func (s *lentStream) Close() error {
	s.once.Do(func() {
		s.In.Close()
		s.Out.Close()
		s.lender.Close()
	})
	return nil
}
