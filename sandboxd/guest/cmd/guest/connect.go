//go:build linux

package main

import (
	"errors"
	"flag"
	"io"
	"net"
	"os"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
)

// How long the guest may take to listen: who started it connects at once.
const (
	listenPatience = 10 * time.Second
	listenLook     = 2 * time.Millisecond
)

// connect joins its standard input and output with the guest's socket, until the guest has
// said all. It says one byte when they are joined: engine.Joined. The end of the input is passed on as such.
func connect(args []string) error {
	flags := flag.NewFlagSet("connect", flag.ContinueOnError)
	socket := flags.String("socket", guest.SocketPath, "where the guest listens")
	if err := flags.Parse(args); err != nil {
		return err
	}
	conn, err := net.Dial("unix", *socket)
	for end := time.Now().Add(listenPatience); err != nil && time.Now().Before(end); conn, err = net.Dial("unix", *socket) {
		time.Sleep(listenLook)
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := os.Stdout.Write([]byte{'+'}); err != nil {
		return err
	}
	go func() {
		_ = pipe(conn, os.Stdin)
		// Errors end the input as well; the guest sees either as its end.
		_ = conn.(*net.UnixConn).CloseWrite()
	}()
	if err := pipe(os.Stdout, conn); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// pipe copies with a buffer that suits files of many megabytes. Only Read and Write are
// shown to io.CopyBuffer, which would otherwise choose a way of its own.
func pipe(to io.Writer, from io.Reader) error {
	const buffer = 256 << 10
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, buffer))
	return err
}
