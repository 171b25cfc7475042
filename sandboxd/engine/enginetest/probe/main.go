//go:build linux

// Command probe stands where the guest stands, for the engine's conformance suite: it
// takes the guest's arguments, answers HTTP on the guest's socket, and says how the
// sandbox looks from inside, to uid 0 and to the uid that kernels have.
//
//   - the server and `connect` (main.go, serve.go)
//   - how the walls look (posture.go, syscalls.go)
//   - what reaches for too much (hog.go)
//   - watches and locks of files that other sandboxes may have, too (files.go)
//   - what is lost with the memory (count.go)
//
// It knows nothing of Dormouse's real guest, so the suite holds whatever that becomes.
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
