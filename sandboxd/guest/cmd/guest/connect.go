//go:build linux

package main

import (
	"flag"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/stdio"
)

// How long the guest may take to listen: who started it connects at once.
const (
	listenPatience = 10 * time.Second
	listenLook     = 2 * time.Millisecond
)

// connect lends its standard input and output to the guest, until the guest is done with them: when they
// end, or the guest does. It says one byte first, when it has reached the guest: stdio.Joined.
func connect(args []string) error {
	flags := flag.NewFlagSet("connect", flag.ContinueOnError)
	socket := flags.String("socket", guest.SocketPath, "where the guest listens")
	if err := flags.Parse(args); err != nil {
		return err
	}
	address := &net.UnixAddr{Name: *socket, Net: "unix"}
	conn, err := net.DialUnix("unix", nil, address)
	for end := time.Now().Add(listenPatience); err != nil && time.Now().Before(end); conn, err = net.DialUnix("unix", nil, address) {
		time.Sleep(listenLook)
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := os.Stdout.Write([]byte{stdio.Joined}); err != nil {
		return err
	}
	if _, _, err := conn.WriteMsgUnix([]byte{0}, syscall.UnixRights(syscall.Stdin, syscall.Stdout), nil); err != nil {
		return err
	}
	_, _ = conn.Read(make([]byte, 1)) // nothing comes but the end
	return nil
}
