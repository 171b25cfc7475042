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

// listenTimeout bounds how long connect waits for the guest to listen, because engines run connect as soon as they
// have started the guest. listenRetryInterval is the time between two attempts.
const (
	listenTimeout       = 10 * time.Second
	listenRetryInterval = 2 * time.Millisecond
)

// connect passes its standard input and output to the guest, and waits until the guest has closed them or has ended.
// Before that, connect writes one byte, stdio.Joined, to its standard output, which reports that the guest was reached.
func connect(args []string) error {
	flags := flag.NewFlagSet("connect", flag.ContinueOnError)
	socket := flags.String("socket", guest.SocketPath, "where the guest listens")
	if err := flags.Parse(args); err != nil {
		return err
	}
	address := &net.UnixAddr{Name: *socket, Net: "unix"}
	conn, err := net.DialUnix("unix", nil, address)
	for end := time.Now().Add(listenTimeout); err != nil && time.Now().Before(end); conn, err = net.DialUnix("unix", nil, address) {
		time.Sleep(listenRetryInterval)
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
	_, _ = conn.Read(make([]byte, 1)) // the guest sends nothing; Read returns when it closes the connection
	return nil
}
