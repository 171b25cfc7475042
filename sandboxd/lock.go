package sandboxd

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

	"github.com/dormouse-sandbox/dormouse/sandboxd/api"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// ErrRunning is wrapped by the error of [Open] if a daemon already runs in the home.
var ErrRunning = errors.New("a Dormouse daemon runs already")

// lockPatience is how long lock waits for the lock if the daemon that holds it does not answer. Such a daemon is usually
// starting or stopping.
const lockPatience = 15 * time.Second

// lock locks the home and writes the pid file. unlock removes the pid file and unlocks the home.
func lock(ctx context.Context, home string) (unlock func() error, err error) {
	l := flock.New(filepath.Join(home, lockName), flock.SetPermissions(0o600))
	until := time.Now().Add(lockPatience)
	for {
		got, err := l.TryLock()
		if err != nil {
			return nil, fmt.Errorf("lock the home: %w", err)
		}
		if got {
			break
		}
		if daemonAnswers(ctx, home) || time.Now().After(until) {
			return nil, fmt.Errorf("%w for %s%s: use it, stop it, or choose another DORMOUSE_HOME", ErrRunning, home, pidNote(home))
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	pid := filepath.Join(home, pidName)
	err = writeFile(pid, strconv.Itoa(os.Getpid())+"\n")
	if store.IsFull(err) && store.FreeReserve(filepath.Join(home, databaseName)) {
		err = writeFile(pid, strconv.Itoa(os.Getpid())+"\n")
	}
	switch {
	case store.IsFull(err): // the daemon starts without a pid file, because deleting sandboxes to free the disk needs a daemon
		_ = os.Remove(pid) // the existing pid file, if any, is that of an earlier daemon
	case err != nil:
		return nil, errors.Join(err, l.Unlock())
	}
	return func() error {
		if err := os.Remove(pid); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(err, l.Unlock())
		}
		return l.Unlock()
	}, nil
}

// pidNote returns the pid from the home's pid file as " (pid 123)", or "" if it is unknown.
func pidNote(home string) string {
	pid, err := runningPid(home)
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (pid %d)", pid)
}

// runningPid returns the pid from the home's pid file.
func runningPid(home string) (int, error) {
	text, err := os.ReadFile(filepath.Join(home, pidName))
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err == nil && pid <= 1 {
		err = fmt.Errorf("%s names no daemon", pidName)
	}
	return pid, err
}

// daemonAnswers reports whether the home's daemon answers within 2 s.
func daemonAnswers(ctx context.Context, home string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	c := api.Dial(SocketPath(home))
	defer c.Close()
	return c.Healthy(ctx) == nil
}
