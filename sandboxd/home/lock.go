package home

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/uuid"

	"github.com/dormouse-sandbox/dormouse/sandboxd/api"
	"github.com/dormouse-sandbox/dormouse/sandboxd/durable"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// ErrRunning is wrapped by the error of [Acquire] if a daemon already runs in the home.
var ErrRunning = errors.New("a Dormouse daemon already runs")

// lockPatience is how long Acquire waits for the lock if the daemon that holds it does not answer. Such a daemon is usually
// starting or stopping.
const lockPatience = 15 * time.Second

// Lock is the exclusive use of a home. The system releases it when the process ends. The caller must call Release.
type Lock struct {
	dir  string
	file *flock.Flock
}

// Acquire locks a home, which must exist. If the home has a daemon, the error wraps [ErrRunning].
func Acquire(ctx context.Context, dir string) (*Lock, error) {
	l := &Lock{dir: Canonical(dir)}
	l.file = flock.New(filepath.Join(l.dir, lockName), flock.SetPermissions(0o600))
	until := time.Now().Add(lockPatience)
	for {
		got, err := l.file.TryLock()
		if err != nil {
			return nil, fmt.Errorf("lock the home: %w", err)
		}
		if got {
			return l, nil
		}
		if daemonAnswers(ctx, l.dir) || time.Now().After(until) {
			return nil, fmt.Errorf("%w for %s%s: use it, stop it, or choose another DORMOUSE_HOME", ErrRunning, l.dir, pidNote(l.dir))
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// WritePid writes the pid of this process to the home's pid file, for people and scripts that stop the daemon. After an
// error the home has no pid file.
func (l *Lock) WritePid() error {
	err := l.writeFile(pidName, strconv.Itoa(os.Getpid()))
	if err != nil {
		_ = os.Remove(filepath.Join(l.dir, pidName)) // the file has the pid of an earlier daemon
	}
	return err
}

// Release removes the pid file and unlocks the home.
func (l *Lock) Release() error {
	err := os.Remove(filepath.Join(l.dir, pidName))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, l.file.Unlock())
}

// ID returns the id of the home, which marks the home's containers. It creates the id the first time.
func (l *Lock) ID() (string, error) {
	path := filepath.Join(l.dir, idName)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		id := uuid.NewString()
		return id, l.writeFile(idName, id)
	}
	if err != nil {
		return "", fmt.Errorf("read the home's id: %w", err)
	}
	id, err := uuid.Parse(strings.TrimSpace(string(text)))
	if err != nil {
		return "", sandbox.Errorf(sandbox.Unavailable, "%s is damaged: restore the id that the labels of this home's containers have, or remove the containers and the file", path)
	}
	return id.String(), nil
}

// writeFile writes a line to a file that only this user can read. The write is atomic and survives a power failure; after
// an error the file is unchanged.
func (l *Lock) writeFile(name, line string) error {
	if err := durable.WriteFile(filepath.Join(l.dir, name), []byte(line+"\n"), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// pidNote returns the pid from the home's pid file as " (pid 123)", or "" if there is none.
func pidNote(dir string) string {
	text, err := os.ReadFile(filepath.Join(dir, pidName))
	if err != nil {
		return ""
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (pid %d)", pid)
}

// daemonAnswers reports whether the home's daemon answers within 2 s.
func daemonAnswers(ctx context.Context, dir string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	c := api.Dial(SocketPath(dir))
	defer c.Close()
	return c.Healthy(ctx) == nil
}
