//go:build linux

// Command guest is Dormouse's program inside a sandbox. The container runs `guest serve` as PID 1, the daemon reaches
// it through `guest connect`, and the guest starts kernels with `guest launch`.
package main

import (
	"fmt"
	"os"
)

const usage = "usage: guest serve|connect|launch [flags]"

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	var run func(args []string) error
	switch os.Args[1] {
	case "serve":
		run = serve
	case "connect":
		run = connect
	case "launch":
		run = launch
	default:
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	if err := run(os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "guest %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}
