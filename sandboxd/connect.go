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

// Timeouts for starting a daemon.
const (
	startTimeout = 30 * time.Second
	pollInterval = 10 * time.Millisecond
)

// Connect returns a client for the home's daemon. If no daemon runs, Connect starts one with
// `exe sandboxd --home=HOME args…` in the caller's environment, and reports that it did. If several processes call Connect
// at once, only one starts a daemon. The daemon outlives the caller. If the daemon ends, the client starts a new one with
// its next call.
//
// Connect replaces a running daemon if a client started it and it cannot open its engine, because the engine may work with
// this caller's arguments or environment.
func Connect(ctx context.Context, home, exe string, args ...string) (client *api.Client, started bool, err error) {
	if home == "" {
		home = DefaultHome()
	}
	home = canonical(home)
	if err := prepare(home); err != nil {
		return nil, false, err
	}
	if !daemonAnswers(ctx, home) || replaceable(ctx, home) {
		if started, err = start(ctx, home, exe, args); err != nil {
			return nil, false, err
		}
	}
	return api.DialBy(func(ctx context.Context) (net.Conn, error) { return dial(ctx, home, exe, args) }), started, nil
}

// dial connects to the home's daemon. If the daemon no longer runs, dial starts a new one: a daemon may be killed, or
// stopped for an upgrade, while a client runs for hours.
func dial(ctx context.Context, home, exe string, args []string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", SocketPath(home))
	if err == nil || ctx.Err() != nil || errors.Is(err, fs.ErrPermission) {
		return conn, err
	}
	if _, startErr := start(ctx, home, exe, args); startErr != nil {
		// dial returns err and not startErr, so that the caller reports that no daemon runs. The daemon's log has the reason.
		return nil, err
	}
	return d.DialContext(ctx, "unix", SocketPath(home))
}

// WarnSkew logs a warning if the running daemon has another version than this program. The caller can use the daemon
// nevertheless.
func WarnSkew(ctx context.Context, client *api.Client, version string, log *slog.Logger) {
	if info, err := client.Info(ctx); err == nil && info.Version != version {
		log.Warn("the running daemon is of another version: stop it, and the next command starts this one",
			"daemon", info.Version, "this", version)
	}
}

// start starts a daemon and waits until the daemon answers. It reports false if another process has just started a daemon. If
// a running daemon is replaceable, start stops that daemon first.
func start(ctx context.Context, home, exe string, args []string) (started bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errSlowStart)
	defer cancel()
	startLock := flock.New(filepath.Join(home, startingName), flock.SetPermissions(0o600))
	if _, err := startLock.TryLockContext(ctx, pollInterval); err != nil {
		return false, startFailed(ctx, err, "")
	}
	defer func() { err = errors.Join(err, startLock.Unlock()) }()
	if daemonAnswers(ctx, home) {
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
	logOffset, err := log.Seek(0, 2)
	if err != nil {
		return false, fmt.Errorf("start the daemon: %w", err)
	}
	exited, err := spawn(home, exe, args, log)
	if err != nil {
		return false, startFailed(ctx, err, "")
	}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for !daemonAnswers(ctx, home) {
		select {
		case err := <-exited:
			// The new daemon has exited. That is no failure if the reason is that another daemon already runs in this home.
			if daemonAnswers(ctx, home) {
				return false, nil
			}
			return false, startFailed(ctx, err, tail(log.Name(), logOffset))
		case <-ctx.Done():
			return false, startFailed(ctx, context.Cause(ctx), tail(log.Name(), logOffset))
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

// replace stops the home's daemon and waits until the daemon no longer answers. It does not wait until the process has ended,
// because the next daemon waits for the home's lock, which is free when the process has ended.
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
	for daemonAnswers(ctx, home) {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
	return nil
}

var errSlowStart = fmt.Errorf("it did not answer within %s", startTimeout)

// startFailed returns the error for a daemon that could not be started. logTail is the end of the daemon's log.
func startFailed(ctx context.Context, err error, logTail string) error {
	if ctx.Err() != nil && context.Cause(ctx) != errSlowStart {
		return fmt.Errorf("start the daemon: %w", context.Cause(ctx))
	}
	if err == nil {
		err = errors.New("it ended at once")
	}
	if logTail != "" {
		logTail = ". It said:\n" + logTail
	}
	return sandbox.Errorf(sandbox.Unavailable, "the Dormouse daemon did not start (%v)%s", err, logTail).WithCause(err)
}

// maxLog is the size in bytes above which openLog begins a new log file. openLog keeps one old file, sandboxd.log.1.
const maxLog = 10 << 20

// openLog opens the log file of the daemons that clients start. The caller must close it.
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
