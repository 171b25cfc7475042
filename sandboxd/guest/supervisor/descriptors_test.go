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

// TestGuestReleasesDescriptors checks that the guest closes the descriptors that a `guest connect` process passed to
// it, and then its connection to that process, when the client closes the descriptors' other end or when the process
// ends the connection. It also checks that the guest rejects a process that sends the wrong number of descriptors.
func TestGuestReleasesDescriptors(t *testing.T) {
	b := start(t)
	open := func() []string {
		fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", b.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return fds
	}
	sendDescriptors := func(fds ...int) *net.UnixConn {
		control, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: b.root + guest.SocketPath, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := control.WriteMsgUnix([]byte{0}, syscall.UnixRights(fds...), nil); err != nil {
			t.Fatal(err)
		}
		return control
	}
	wantReleased := func(control *net.UnixConn) {
		t.Helper()
		control.SetReadDeadline(time.Now().Add(time.Minute))
		if n, err := control.Read(make([]byte, 1)); n > 0 || err == nil || os.IsTimeout(err) {
			t.Errorf("Read() = %d, %v, want the end of the connection: the guest still has the descriptors", n, err)
		}
		control.Close()
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
	control := sendDescriptors(theirs, theirs)
	syscall.Close(theirs)
	syscall.Close(ours)
	wantReleased(control)

	ours, theirs = pair()
	defer syscall.Close(ours)
	control = sendDescriptors(theirs, theirs)
	syscall.Close(theirs)
	if err := control.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	wantReleased(control)

	_, theirs = pair()
	wantReleased(sendDescriptors(theirs))

	if after := open(); len(after) > before {
		t.Errorf("the guest has %d descriptors afterwards, want at most the %d from before", len(after), before)
	}
	if _, err := b.Status(t.Context()); err != nil {
		t.Errorf("Status() over another connection: %v", err)
	}
}
