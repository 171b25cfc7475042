package sandboxd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"

	"github.com/dormouse-sandbox/dormouse/sandboxd/api"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Times of starting a daemon.
const (
	startTimeout = 30 * time.Second
	pollInterval = 10 * time.Millisecond
)

// Connect returns a client for the home's daemon, and starts it if none runs: with
// `exe sandboxd --home=HOME args…` in the environment of the caller. Of several that do so at
// once, one starts it. The daemon outlives the caller; and when it has gone, the client starts it again with
// the next call. Connect replaces a daemon that a client started and that cannot open its engine, because the caller's
// arguments or environment may be the right ones.
func Connect(ctx context.Context, home, exe string, args ...string) (client *api.Client, started bool, err error) {
	if home == "" {
		home = DefaultHome()
	}
	home = canonical(home)
	if err := prepare(home); err != nil {
		return nil, false, err
	}
	if !answers(ctx, home) || replaceable(ctx, home) {
		if started, err = start(ctx, home, exe, args); err != nil {
			return nil, false, err
		}
	}
	return api.DialBy(func(ctx context.Context) (net.Conn, error) { return dial(ctx, home, exe, args) }), started, nil
}

// dial connects to the home's daemon, and starts it if it has gone: killed, or stopped for an upgrade, while
// a client of hours lives on.
func dial(ctx context.Context, home, exe string, args []string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", SocketPath(home))
	if err == nil || ctx.Err() != nil || errors.Is(err, fs.ErrPermission) {
		return conn, err
	}
	if _, startErr := start(ctx, home, exe, args); startErr != nil {
		return nil, err // why it did not start is in its log; that it does not run is what the caller can tell
	}
	return d.DialContext(ctx, "unix", SocketPath(home))
}

// WarnSkew logs that the running daemon is of another version than this program, if so.
// It is used all the same.
func WarnSkew(ctx context.Context, client *api.Client, version string, log *slog.Logger) {
	if info, err := client.Info(ctx); err == nil && info.Version != version {
		log.Warn("the running daemon is of another version: stop it, and the next command starts this one",
			"daemon", info.Version, "this", version)
	}
}

// start starts a daemon and waits until it answers, unless somebody else just did.
func start(ctx context.Context, home, exe string, args []string) (started bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errSlowStart)
	defer cancel()
	turn := flock.New(filepath.Join(home, startingName), flock.SetPermissions(0o600))
	if _, err := turn.TryLockContext(ctx, pollInterval); err != nil {
		return false, startFailed(ctx, err, "")
	}
	defer func() { err = errors.Join(err, turn.Unlock()) }()
	if answers(ctx, home) {
		if !replaceable(ctx, home) {
			return false, nil
		}
		if err := replace(ctx, home); err != nil {
			return false, startFailed(ctx, err, "")
		}
	}
	log, err := openLog(home)
	if err != nil {
		return false, err
	}
	defer log.Close()
	begin, err := log.Seek(0, 2)
	if err != nil {
		return false, fmt.Errorf("start the daemon: %w", err)
	}
	exited, err := spawn(home, exe, args, log)
	if err != nil {
		return false, startFailed(ctx, err, "")
	}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for !answers(ctx, home) {
		select {
		case err := <-exited:
			// It may have found another that was quicker.
			if answers(ctx, home) {
				return false, nil
			}
			return false, startFailed(ctx, err, tail(log.Name(), begin))
		case <-ctx.Done():
			return false, startFailed(ctx, context.Cause(ctx), tail(log.Name(), begin))
		case <-tick.C:
		}
	}
	return true, nil
}

// replaceable reports whether the home's daemon may be stopped because it cannot open its engine.
func replaceable(ctx context.Context, home string) bool {
	c := api.Dial(SocketPath(home))
	defer c.Close()
	info, err := c.Info(ctx)
	return err == nil && info.Replaceable
}

// replace stops the home's daemon and waits until it no longer answers. It need not wait for the daemon's end: the next daemon waits for
// the home's lock.
func replace(ctx context.Context, home string) error {
	pid, err := runningPid(home)
	if err != nil {
		return fmt.Errorf("stop the daemon that has no engine: %w", err)
	}
	if err := terminate(pid); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop the daemon that has no engine (pid %d): %w", pid, err)
	}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for answers(ctx, home) {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
	return nil
}

var errSlowStart = fmt.Errorf("it did not answer within %s", startTimeout)

// startFailed is the error of a daemon that could not be started, with the last that it said.
func startFailed(ctx context.Context, err error, said string) error {
	if ctx.Err() != nil && context.Cause(ctx) != errSlowStart {
		return fmt.Errorf("start the daemon: %w", context.Cause(ctx))
	}
	if err == nil {
		err = errors.New("it ended at once")
	}
	if said != "" {
		said = ". It said:\n" + said
	}
	return sandbox.Errorf(sandbox.Unavailable, "the Dormouse daemon did not start (%v)%s", err, said).WithCause(err)
}

// maxLog is when a new log is begun; the one before is kept.
const maxLog = 10 << 20

// openLog opens the log of daemons that clients started.
func openLog(home string) (*os.File, error) {
	path := filepath.Join(home, logName)
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, fmt.Errorf("begin a new log: %w", err)
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	return f, nil
}
