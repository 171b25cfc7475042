// Package sandboxd is the daemon, put together: a home, a store, an engine, the manager
// and the API on a socket. It decides nothing about sandboxes.
//
//   - [Run]: all of it (here); [Open], [Daemon]: its pieces (daemon.go), and what it says of itself (info.go)
//   - [Config]: what can be chosen (config.go), and the log (log.go)
//   - [DefaultHome], [SocketPath]: where everything is (home.go), whose it is (lock.go, listen.go, peer_*.go)
//   - the engine, which need not be there yet (engines.go, lazyengine.go)
//   - [Connect]: a client's way to a daemon that may not run yet (connect.go, spawn*.go)
package sandboxd

import (
	"context"
	"os/signal"
	"syscall"
)

// Run is the daemon in the foreground: it serves the API on the home's socket until ctx
// ends or the process is asked to stop. Sandboxes and what runs in them go on. The error is
// [ErrRunning] if the home has a daemon.
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
