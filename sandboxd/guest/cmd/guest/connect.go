//go:build linux

package main

import (
	"flag"
	"net"
	"syscall"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
)

// connect lends its standard input and output to the guest, until the guest is done with them: when they
// end, or the guest does.
func connect(args []string) error {
	flags := flag.NewFlagSet("connect", flag.ContinueOnError)
	socket := flags.String("socket", guest.SocketPath, "where the guest listens")
	if err := flags.Parse(args); err != nil {
		return err
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: *socket, Net: "unix"})
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, _, err := conn.WriteMsgUnix([]byte{0}, syscall.UnixRights(syscall.Stdin, syscall.Stdout), nil); err != nil {
		return err
	}
	_, _ = conn.Read(make([]byte, 1)) // nothing comes but the end
	return nil
}
