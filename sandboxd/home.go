package sandboxd

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/uuid"

	"github.com/dormouse-sandbox/dormouse/sandboxd/durable"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Files in a home.
const (
	socketName   = "sandboxd.sock"
	pidName      = "sandboxd.pid"
	lockName     = "sandboxd.lock"
	startingName = "starting.lock" // held by the client that starts a daemon
	logName      = "sandboxd.log"  // the log of daemons that clients start
	idName       = "home.id"
	databaseName = "dormouse.db"
)

// DefaultHome returns the default state directory: the value of DORMOUSE_HOME, or else the folder dormouse in the system's
// usual place for the state of programs.
func DefaultHome() string {
	if dir := os.Getenv("DORMOUSE_HOME"); dir != "" {
		return canonical(dir)
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
func SocketPath(home string) string {
	home = canonical(home)
	path := filepath.Join(home, socketName)
	if len(path) <= maxSocketPath {
		return path
	}
	short := "/tmp"
	if runtime.GOOS == "windows" {
		short = os.TempDir()
	}
	sum := sha256.Sum256([]byte(home))
	return filepath.Join(short, fmt.Sprintf("dormouse-%d-%x", os.Geteuid(), sum[:8]), socketName)
}

// canonical returns the absolute path of dir without symbolic links, so that all names of a folder give the same path. The
// folder need not exist.
func canonical(dir string) string {
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

// PrepareHome creates the home if necessary, accessible only to this user. It returns an error if the home belongs to
// another user, or if others can access it and it contains files that are not Dormouse's.
func PrepareHome(home string) error { return prepare(canonical(home)) }

// prepare is PrepareHome for a canonical path. It also creates the folder of the socket, if that is outside the home.
func prepare(home string) error {
	if err := makePrivate(home, true); err != nil {
		return err
	}
	if dir := filepath.Dir(SocketPath(home)); dir != home {
		return makePrivate(dir, false)
	}
	return nil
}

// makePrivate creates dir if necessary, accessible only to this user. It returns an error if another user owns dir or if others
// can access dir. But if fixMode is true and dir is empty or already a home, makePrivate removes the access of others instead.
func makePrivate(dir string, fixMode bool) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make a home: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("make a home: %w", err)
	}
	if !info.IsDir() {
		return sandbox.Errorf(sandbox.Unavailable, "%s is not a folder", dir)
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
		return fmt.Errorf("make a home: %w", err)
	}
	ours := len(entries) == 0
	for _, e := range entries {
		ours = ours || e.Name() == idName
	}
	if !fixMode || !ours {
		return sandbox.Errorf(sandbox.Unavailable, "%s is open to other users and has files that are not Dormouse's: choose another DORMOUSE_HOME, or close it with chmod 700", dir)
	}
	return os.Chmod(dir, 0o700)
}

// homeID returns the id of the home, which marks the home's containers. It creates the id the first time. The caller must
// hold the home's lock.
func homeID(home string) (string, error) {
	path := filepath.Join(home, idName)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		id := uuid.NewString()
		return id, writeFile(path, id+"\n")
	}
	if err != nil {
		return "", fmt.Errorf("read the home's id: %w", err)
	}
	id, err := uuid.Parse(strings.TrimSpace(string(text)))
	if err != nil {
		return "", sandbox.Errorf(sandbox.Unavailable, "%s is damaged: put back the id that this home's containers carry, or remove them and the file", path)
	}
	return id.String(), nil
}

// writeFile writes a file that only this user can read. The write is atomic and survives a power failure; after an error the
// file is unchanged.
func writeFile(path, text string) error {
	if err := durable.WriteFile(path, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}
