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
	logName      = "sandboxd.log"  // of a daemon that a client started
	idName       = "home.id"
	databaseName = "dormouse.db"
)

// DefaultHome is where the daemon keeps everything: DORMOUSE_HOME, or a folder for
// programs' state as the system has it.
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

// maxSocketPath is below what every system takes (104 bytes on macOS, 108 on Linux).
const maxSocketPath = 100

// SocketPath is where a home's daemon listens. A home whose path is too long for a socket has
// it in a short folder instead, which depends on nothing but the home and the user: daemon
// and clients may have different environments.
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

// canonical makes one name of all that a folder has, whether or not it is there yet.
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

// PrepareHome makes the home, if it is not there, for this user alone.
func PrepareHome(home string) error { return prepare(canonical(home)) }

// prepare makes the home, and the socket's folder if that is elsewhere, for this user alone.
func prepare(home string) error {
	if err := private(home, true); err != nil {
		return err
	}
	if dir := filepath.Dir(SocketPath(home)); dir != home {
		return private(dir, false)
	}
	return nil
}

// private makes dir if it is not there, and refuses one that others own or can enter. narrow:
// one of ours that is open to others, and empty or a home already, is closed to them.
func private(dir string, narrow bool) error {
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
		return nil // a system without such owners
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
	if !narrow || !ours {
		return sandbox.Errorf(sandbox.Unavailable, "%s is open to other users and has files that are not Dormouse's: choose another DORMOUSE_HOME, or close it with chmod 700", dir)
	}
	return os.Chmod(dir, 0o700)
}

// homeID returns the name that the home's containers carry, and makes it the first
// time. It is called with the home's lock.
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

// writeFile writes a file that only this user can read. The file survives a power cut; after an error its content is unchanged.
func writeFile(path, text string) error {
	if err := durable.WriteFile(path, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}
