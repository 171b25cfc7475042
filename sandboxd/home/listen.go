package home

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

// Listen listens on the home's socket, which only this user can use. It removes an existing socket: because of the lock, the
// daemon that created it no longer runs. The caller must close the listener.
func (l *Lock) Listen(log *slog.Logger) (net.Listener, error) {
	path := SocketPath(l.dir)
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("listen: %w", err)
	case info.Mode().Type() != fs.ModeSocket && runtime.GOOS != "windows":
		return nil, sandbox.Errorf(sandbox.Unavailable, "the daemon cannot listen on %s because this file is not a socket: remove it", path)
	default:
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove a stale socket: %w", err)
		}
	}
	socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"}) // Close removes the file of the socket
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil && runtime.GOOS != "windows" {
		return nil, errors.Join(fmt.Errorf("listen: %w", err), socket.Close())
	}
	return &sameUserListener{UnixListener: socket, uid: os.Geteuid(), log: log}, nil
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
		p, err := peerOf(c)
		if err == nil && (p.uid == unknown || p.uid == l.uid) {
			return c, nil
		}
		l.log.Warn("connection refused: only processes of this daemon's user may connect", "uid", p.uid, "err", err)
		c.Close()
	}
}
