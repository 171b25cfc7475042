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

// descriptorListener accepts the daemon's connections. Each client of the socket is a `guest connect` process, with uid
// 0 like the guest. This process passes its stdin and stdout, which are connected to the engine, to the guest and waits
// until the guest has closed them. So bytes move between the engine and the guest without another process in between.
type descriptorListener struct{ *net.UnixListener }

// descriptorTimeout is how long `guest connect` may take to pass its descriptors.
const descriptorTimeout = 5 * time.Second

func (l descriptorListener) Accept() (net.Conn, error) {
	for {
		control, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		conn, err := receiveDescriptors(control)
		if err == nil {
			return conn, nil
		}
		control.Close()
	}
}

// receiveDescriptors receives the descriptors that `guest connect` sends over its connection to the socket.
func receiveDescriptors(control *net.UnixConn) (net.Conn, error) {
	if err := control.SetReadDeadline(time.Now().Add(descriptorTimeout)); err != nil {
		return nil, err
	}
	oob := make([]byte, 64)
	_, n, _, _, err := control.ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		return nil, err
	}
	messages, err := syscall.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return nil, err
	}
	if len(messages) != 1 {
		return nil, errors.New("the message contains no descriptors")
	}
	fds, err := syscall.ParseUnixRights(&messages[0]) // package net sets close-on-exec, so no kernel inherits them
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
		return nil, errors.Join(err, fmt.Errorf("the message contains %d descriptors, want 2", len(fds)))
	}
	s := &descriptorStream{control: control, Pipes: stdio.Pipes{In: os.NewFile(uintptr(fds[0]), "in"), Out: os.NewFile(uintptr(fds[1]), "out")}}
	_ = control.SetReadDeadline(time.Time{})
	go func() { // `guest connect` sends nothing more, so Read returns when that process has ended
		_, _ = control.Read(make([]byte, 1))
		s.Close()
	}()
	return s, nil
}

// descriptorStream is the stdin and stdout of a `guest connect` process as a net.Conn.
type descriptorStream struct {
	stdio.Pipes
	control *net.UnixConn // the connection of `guest connect` to the socket
	once    sync.Once
}

// Close closes the descriptors, and then the connection to `guest connect`, which makes that process end. So when the
// process has ended, none of its streams is open in the sandbox any more.
func (s *descriptorStream) Close() error {
	s.once.Do(func() {
		s.In.Close()
		s.Out.Close()
		s.control.Close()
	})
	return nil
}
