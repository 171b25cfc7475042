// Package sandboxd assembles the daemon from its parts: a home (the state directory, package home), a store, an engine, the
// manager, and the API on a unix socket. The commands use it to run a daemon. It makes no decisions about sandboxes; the
// manager does.
//
//   - [Run]: runs the daemon in the foreground (sandboxd.go)
//   - [Open], [Daemon]: a daemon for callers that serve it themselves (daemon.go), and its description (info.go)
//   - [Settings]: the settings that a user can change (settings.go); [Config]: these settings and the values that the
//     program sets (config.go)
//   - [NewLogger]: the log (log.go)
//   - [OpenEngine], [LoadImage]: choosing and opening the engine (engines.go), which the daemon opens when it is first
//     needed (lazyengine.go)
//   - [Try]: creating and using a sandbox in a temporary home, as a check (trial.go)
package sandboxd

import (
	"context"
	"os/signal"
	"syscall"
)

// Run runs a daemon in the foreground. It serves the API on the home's socket until ctx ends or the process receives SIGINT
// or SIGTERM. Sandboxes and their executions continue. If the home already has a daemon, the error wraps [home.ErrRunning].
func Run(ctx context.Context, cfg Config) (err error) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	d, err := Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := d.Close(); err == nil {
			err = closeErr
		}
	}()
	l, err := d.Listen()
	if err != nil {
		return err
	}
	return d.Serve(ctx, l)
}
