package home

import (
	"context"
	"errors"
	"fmt"
	"io"
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
// `exe sandboxd --home=HOME args…` in the caller's environment, and started is true. If several processes call Connect
// at once, only one starts a daemon. The daemon outlives the caller. If the daemon ends, the next call of the client starts
// a new daemon.
//
// Connect replaces a running daemon if a client started it and it cannot open its engine, because the engine may work with
// this caller's arguments or environment.
func Connect(ctx context.Context, dir, exe string, args ...string) (client *api.Client, started bool, err error) {
	dir = Canonical(dir)
	if err := Prepare(dir); err != nil {
		return nil, false, err
	}
	if !daemonAnswers(ctx, dir) || replaceable(ctx, dir) {
		if started, err = start(ctx, dir, exe, args); err != nil {
			return nil, false, err
		}
	}
	return api.DialBy(func(ctx context.Context) (net.Conn, error) { return dial(ctx, dir, exe, args) }), started, nil
}

// dial connects to the home's daemon. If the daemon no longer runs, dial starts a new one: a daemon may be killed, or
// stopped for an upgrade, while a client runs for hours.
func dial(ctx context.Context, dir, exe string, args []string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", SocketPath(dir))
	if err == nil || ctx.Err() != nil || errors.Is(err, fs.ErrPermission) {
		return conn, err
	}
	if _, startErr := start(ctx, dir, exe, args); startErr != nil {
		// dial returns err and not startErr, so that the caller reports that no daemon runs. The daemon's log has the reason.
		return nil, err
	}
	return d.DialContext(ctx, "unix", SocketPath(dir))
}

// WarnSkew logs a warning if the running daemon has another version than this program. The caller can use the daemon
// nevertheless.
func WarnSkew(ctx context.Context, client *api.Client, version string, log *slog.Logger) {
	if info, err := client.Info(ctx); err == nil && info.Version != version {
		log.Warn("the running daemon has another version than this program; stop it, and the next command starts a daemon of this version",
			"daemon", info.Version, "this", version)
	}
}

// start starts a daemon and waits until the daemon answers. It reports false if another process has just started a daemon. If
// a running daemon is replaceable, start stops that daemon first.
func start(ctx context.Context, dir, exe string, args []string) (started bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errSlowStart)
	defer cancel()
	startLock := flock.New(filepath.Join(dir, startingName), flock.SetPermissions(0o600))
	if _, err := startLock.TryLockContext(ctx, pollInterval); err != nil {
		return false, startFailed(ctx, err, "")
	}
	defer func() { err = errors.Join(err, startLock.Unlock()) }()
	if daemonAnswers(ctx, dir) {
		if !replaceable(ctx, dir) {
			return false, nil
		}
		if err := replace(ctx, dir); err != nil {
			return false, startFailed(ctx, err, "")
		}
	}
	log, err := openLog(dir)
	if err != nil {
		return false, err
	}
	defer log.Close()
	logOffset, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return false, fmt.Errorf("start the daemon: %w", err)
	}
	exited, err := spawn(dir, exe, args, log)
	if err != nil {
		return false, startFailed(ctx, err, "")
	}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for !daemonAnswers(ctx, dir) {
		select {
		case err := <-exited:
			// The new daemon has exited. That is no failure if the reason is that another daemon already runs in this home.
			if daemonAnswers(ctx, dir) {
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
func replaceable(ctx context.Context, dir string) bool {
	c := api.Dial(SocketPath(dir))
	defer c.Close()
	info, err := c.Info(ctx)
	return err == nil && info.Replaceable
}

// replace stops the home's daemon and waits until the daemon no longer answers. It does not wait until the process has ended,
// because the next daemon waits for the home's lock, which is free when the process has ended.
func replace(ctx context.Context, dir string) error {
	p, err := daemonProcess(ctx, dir)
	if err != nil && !daemonAnswers(ctx, dir) {
		return nil // it has ended by itself
	}
	if err != nil {
		return fmt.Errorf("find the process of the daemon that has no engine, to stop it: %w", err)
	}
	defer p.Release()
	if err := terminate(p); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop the daemon that has no engine (pid %d): %w", p.Pid, err)
	}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for daemonAnswers(ctx, dir) {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
	return nil
}

// daemonProcess returns the process that listens on the home's socket. The pid comes from the system and not from the pid
// file, which can have the pid of another process, for example after it was copied or restored with the home. The caller must
// call Release.
func daemonProcess(ctx context.Context, dir string) (*os.Process, error) {
	pid, err := listenerPid(ctx, dir)
	if err != nil {
		return nil, err
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		return nil, err
	}
	// The daemon may have ended before FindProcess, and its pid may belong to another process now.
	if now, err := listenerPid(ctx, dir); err != nil || now != pid {
		return nil, errors.Join(fmt.Errorf("the daemon with pid %d has ended", pid), err, p.Release())
	}
	return p, nil
}

// listenerPid returns the pid of the process that listens on the home's socket.
func listenerPid(ctx context.Context, dir string) (int, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", SocketPath(dir))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	p, err := peerOf(conn.(*net.UnixConn))
	if err == nil && p.pid <= 1 { // for example, the daemon is in another pid namespace
		err = fmt.Errorf("the system does not report its pid; stop it yourself (%s may have the pid)", filepath.Join(dir, pidName))
	}
	return p.pid, err
}

var errSlowStart = fmt.Errorf("it did not answer within %s", startTimeout)

// startFailed returns the error for a daemon that could not be started. logTail is the end of the daemon's log.
func startFailed(ctx context.Context, err error, logTail string) error {
	if ctx.Err() != nil && context.Cause(ctx) != errSlowStart {
		return fmt.Errorf("start the daemon: %w", context.Cause(ctx))
	}
	if err == nil {
		err = errors.New("it exited before it answered")
	}
	if logTail != "" {
		logTail = ". The end of its log:\n" + logTail
	}
	return sandbox.Errorf(sandbox.Unavailable, "the Dormouse daemon did not start (%v)%s", err, logTail).WithCause(err)
}

// maxLog is the size in bytes above which openLog begins a new log file. openLog keeps one old file, sandboxd.log.1.
const maxLog = 10 << 20

// openLog opens the log file of the daemons that clients start. The caller must close it.
func openLog(dir string) (*os.File, error) {
	path := filepath.Join(dir, logName)
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, fmt.Errorf("rename the full log: %w", err)
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	return f, nil
}
