//go:build linux

package supervisor_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
)

// TestLentDescriptors: when a connection ends, the guest closes its descriptors and then the connection to `guest
// connect`. It does so if either of the two closes its end. It rejects a `guest connect` that sends the wrong number
// of descriptors.
func TestLentDescriptors(t *testing.T) {
	b := start(t)
	open := func() []string {
		fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", b.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return fds
	}
	lend := func(fds ...int) *net.UnixConn {
		lender, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: b.root + guest.SocketPath, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := lender.WriteMsgUnix([]byte{0}, syscall.UnixRights(fds...), nil); err != nil {
			t.Fatal(err)
		}
		return lender
	}
	released := func(lender *net.UnixConn) {
		t.Helper()
		lender.SetReadDeadline(time.Now().Add(20 * time.Second))
		if n, err := lender.Read(make([]byte, 1)); n > 0 || err == nil || os.IsTimeout(err) {
			t.Errorf("the guest keeps what it was lent: %d, %v", n, err)
		}
		lender.Close()
	}
	pair := func() (ours, theirs int) {
		p, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return p[0], p[1]
	}
	if _, err := b.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := len(open())

	ours, theirs := pair()
	lender := lend(theirs, theirs)
	syscall.Close(theirs)
	syscall.Close(ours)
	released(lender)

	ours, theirs = pair()
	defer syscall.Close(ours)
	lender = lend(theirs, theirs)
	syscall.Close(theirs)
	if err := lender.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	released(lender)

	_, theirs = pair()
	released(lend(theirs))

	if after := open(); len(after) > before {
		t.Errorf("the guest has %d descriptors, and had %d", len(after), before)
	}
	if _, err := b.Status(t.Context()); err != nil {
		t.Errorf("another connection does not work any more: %v", err)
	}
}
