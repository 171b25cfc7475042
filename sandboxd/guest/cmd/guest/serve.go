//go:build linux

package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/supervisor"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// serve runs the guest as PID 1 of a sandbox until the sandbox ends.
func serve(args []string) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	var config supervisor.Config
	flags.IntVar(&config.UID, "uid", 0, "user and group of kernels")
	flags.Int64Var(&config.Memory, "memory", 0, "bytes of memory of the whole sandbox")
	flags.IntVar(&config.Processes, "processes", 0, "processes that kernels may have")
	flags.Int64Var(&config.Workspace, "workspace", 0, "bytes of /workspace")
	expires := flags.Int64("expires", 0, "when the sandbox ends, in Unix seconds")
	language := flags.String("language", "", "the kernel to start ahead of the first execution")
	flags.BoolVar(&config.Stdio, "stdio", false, "listen on stdin and stdout, too")
	flags.StringVar(&config.Socket, "socket", guest.SocketPath, "where to listen")
	if err := flags.Parse(args); err != nil {
		return err
	}
	config.Expires = time.Unix(*expires, 0)
	var err error
	if config.Language, err = sandbox.ParseLanguage(*language); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the guest's own program: %w", err)
	}
	config.Bundle = filepath.Dir(self)
	// The guest's memory counts towards the sandbox's limit. More frequent garbage collection saves memory for a
	// little CPU time.
	debug.SetGCPercent(50)
	return supervisor.Run(config)
}
