package home_test

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/home"
	"github.com/dormouse-sandbox/dormouse/sandboxd/home/hometest"
)

// TestS11_OtherUser checks that another user cannot use the daemon, even if the modes of the home and the socket allow
// access.
func TestS11_OtherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can change to another uid")
	}
	dir := hometest.New(t)
	c, _ := run(t, dir)
	socket := home.SocketPath(dir)
	if err := dialAs(65534, socket); err == nil {
		t.Error("another user connected to the socket, want that the modes of the folders forbid it")
	}
	for _, path := range []string{filepath.Dir(dir), dir, socket} {
		must(t, os.Chmod(path, 0o777))
	}
	if err := dialAs(65534, socket); err != io.EOF {
		t.Errorf("another user's request = %v, want that the connection is closed", err)
	}
	must(t, c.Healthy(t.Context()))
}

// dialAs sends a request from a thread that has changed to another uid, and returns the error. It returns io.EOF if the
// connection was closed.
func dialAs(uid int, socket string) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, so that the thread ends with the goroutine
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
			result <- errno
			return
		}
		c, err := net.Dial("unix", socket)
		if err != nil {
			result <- err
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		_, _ = io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		if _, err = c.Read(make([]byte, 1)); errors.Is(err, syscall.ECONNRESET) {
			err = io.EOF
		}
		result <- err
	}()
	return <-result
}
