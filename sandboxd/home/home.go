// Package home manages a home: the state directory with everything that one daemon stores. Two homes never affect each
// other. A home belongs to one user, and at most one daemon uses it at a time.
//
// The functions take the path of a home in any form. [Canonical] returns the form in which the daemon and its clients
// agree, also through symbolic links.
//
//   - [Default], [Prepare], [SocketPath] and the names of the files in a home (home.go; owner_*.go: the owner of a folder)
//   - [Acquire], [Lock]: the exclusive use of a home. Only the holder of the lock can read the home's id and listen on its
//     socket (lock.go)
//   - [Lock.Listen]: the socket, which accepts only processes of the home's user (listen.go; peer_*.go: the credentials of
//     the process at the other end of a socket)
//   - [Connect]: a client of the home's daemon; it starts the daemon if none runs (connect.go, spawn*.go)
//
// Package sandboxd uses package home to run a daemon, and the commands use it to reach one. Package home starts daemons as
// processes but contains none of a daemon's code: it imports neither an engine nor the MCP server.
package home

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Files and folders in a home that other packages use.
const (
	DatabaseName = "dormouse.db" // the database of the store
	EngineName   = "engine"      // a file with the name of the engine that runs the home's sandboxes
	GvisorName   = "gvisor"      // the folder of the gvisor engine
	SpoolName    = "spool"       // the folder for long messages
	TokenName    = "token"       // the tokens of dormouse serve
)

// Files in a home that only this package uses.
const (
	socketName   = "sandboxd.sock"
	pidName      = "sandboxd.pid"
	lockName     = "sandboxd.lock"
	startingName = "starting.lock" // held by the client that starts a daemon
	logName      = "sandboxd.log"  // the log of daemons that clients start
	idName       = "home.id"
)

// Default returns the default state directory: the value of DORMOUSE_HOME, or else the folder dormouse in the system's
// usual place for the state of programs.
func Default() string {
	if dir := os.Getenv("DORMOUSE_HOME"); dir != "" {
		return Canonical(dir)
	}
	const name = "dormouse"
	user, err := os.UserHomeDir()
	switch {
	case runtime.GOOS == "windows" && os.Getenv("LOCALAPPDATA") != "":
		return filepath.Join(os.Getenv("LOCALAPPDATA"), name)
	case runtime.GOOS == "darwin" && err == nil:
		return filepath.Join(user, "Library", "Application Support", name)
	case filepath.IsAbs(os.Getenv("XDG_STATE_HOME")):
		return filepath.Join(os.Getenv("XDG_STATE_HOME"), name)
	case err == nil:
		return filepath.Join(user, ".local", "state", name)
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("%s-%d", name, os.Geteuid()))
}

// maxSocketPath is the maximum length of a socket's path. It is below the limit of every system (104 bytes on macOS, 108 on
// Linux).
const maxSocketPath = 100

// SocketPath returns the path of the socket on which a home's daemon listens. If the path of the home is too long for a
// socket, the socket is in a folder below /tmp. The name of that folder depends only on the home and the user, because the
// daemon and its clients may have different environments.
func SocketPath(dir string) string {
	dir = Canonical(dir)
	path := filepath.Join(dir, socketName)
	if len(path) <= maxSocketPath {
		return path
	}
	short := "/tmp"
	if runtime.GOOS == "windows" {
		short = os.TempDir()
	}
	sum := sha256.Sum256([]byte(dir))
	return filepath.Join(short, fmt.Sprintf("dormouse-%d-%x", os.Geteuid(), sum[:8]), socketName)
}

// Canonical returns the absolute path of dir without symbolic links, so that all names of a folder give the same path. The
// folder need not exist.
func Canonical(dir string) string {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return dir
	}
	for existing, rest := abs, ""; ; existing, rest = filepath.Dir(existing), filepath.Join(filepath.Base(existing), rest) {
		if real, err := filepath.EvalSymlinks(existing); err == nil {
			return filepath.Join(real, rest)
		}
		if existing == filepath.Dir(existing) {
			return abs
		}
	}
}

// Prepare creates the home if necessary, accessible only to this user, and the folder of its socket, if that is outside
// the home. It returns an error if another user owns one of these folders, or if other users can access the socket's
// folder. If other users can access the home, Prepare removes their access if the home is empty or has a home.id, and
// returns an error otherwise.
func Prepare(dir string) error {
	dir = Canonical(dir)
	if err := makePrivate(dir, true); err != nil {
		return err
	}
	if socketDir := filepath.Dir(SocketPath(dir)); socketDir != dir {
		return makePrivate(socketDir, false)
	}
	return nil
}

// makePrivate creates dir if necessary, accessible only to this user. It returns an error if another user owns dir or if others
// can access dir. But if fixMode is true and dir is empty or already a home, makePrivate removes the access of others instead.
func makePrivate(dir string, fixMode bool) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create the home: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("create the home: %w", err)
	}
	if !info.IsDir() {
		return sandbox.Errorf(sandbox.Unavailable, "%s is not a folder: choose another DORMOUSE_HOME", dir)
	}
	uid, ok := owner(info)
	if !ok {
		return nil // the system has no numeric owners of files
	}
	if uid != os.Geteuid() {
		return sandbox.Errorf(sandbox.Unavailable, "%s belongs to another user (uid %d): choose another DORMOUSE_HOME", dir, uid)
	}
	if info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("create the home: %w", err)
	}
	ours := len(entries) == 0
	for _, e := range entries {
		ours = ours || e.Name() == idName
	}
	if !fixMode || !ours {
		return sandbox.Errorf(sandbox.Unavailable, "other users can access %s, and it contains files that are not Dormouse's: choose another DORMOUSE_HOME, or remove their access with chmod 700", dir)
	}
	return os.Chmod(dir, 0o700)
}
