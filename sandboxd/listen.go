package sandboxd

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"runtime"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// listen listens on the home's socket, which only this user can use. It removes an existing socket. The caller must hold the
// home's lock, which guarantees that the daemon that created the existing socket no longer runs.
func listen(home string, log *slog.Logger) (net.Listener, error) {
	path := SocketPath(home)
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("listen: %w", err)
	case info.Mode().Type() != fs.ModeSocket && runtime.GOOS != "windows":
		return nil, sandbox.Errorf(sandbox.Unavailable, "%s is in the way and not a socket: remove it", path)
	default:
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove a stale socket: %w", err)
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"}) // the listener's Close removes the socket
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil && runtime.GOOS != "windows" {
		return nil, errors.Join(fmt.Errorf("listen: %w", err), l.Close())
	}
	return &sameUserListener{UnixListener: l, uid: os.Geteuid(), log: log}, nil
}

// sameUserListener accepts only connections from processes of one user. It protects the daemon even if the mode of the socket,
// which keeps other users out, was changed.
type sameUserListener struct {
	*net.UnixListener
	uid int
	log *slog.Logger
}

func (l *sameUserListener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		uid, known, err := peerUID(c)
		if err == nil && (!known || uid == l.uid) {
			return c, nil
		}
		l.log.Warn("connection refused: not this user's", "uid", uid, "err", err)
		c.Close()
	}
}
