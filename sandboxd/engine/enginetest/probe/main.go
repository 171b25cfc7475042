//go:build linux

// Command probe replaces the guest in the engines' conformance suite. It accepts the guest's arguments, serves HTTP
// on the guest's socket, and reports how the sandbox looks from inside, to uid 0 and to the uid that kernels run as.
// It is independent of the real guest, so the suite stays valid when the guest changes.
//
//   - the server and the command connect (main.go, serve.go)
//   - how the isolation looks from inside (posture.go, syscalls.go)
//   - using more than the limits allow (hog.go)
//   - watches and locks of files that other sandboxes may share (files.go)
//   - state that exists only in memory and open files (count.go)
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("usage: probe serve|connect|posture|hog|save")
	}
	switch args[0] {
	case "serve":
		return serve(args[1:])
	case "connect":
		return connect()
	case "posture":
		return printPosture(os.Stdout)
	case "hog":
		return hog(args[1:])
	case "save":
		return save(args[1:])
	}
	return fmt.Errorf("no command %q", args[0])
}

// save writes stdin to a file in /workspace.
func save(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: probe save NAME")
	}
	file, err := os.Create("/workspace/" + args[0])
	if err != nil {
		return err
	}
	_, err = io.Copy(file, os.Stdin)
	return errors.Join(err, file.Close())
}
