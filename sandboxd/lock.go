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

// ErrRunning is in the chain of the error of a second daemon in one home.
var ErrRunning = errors.New("a Dormouse daemon runs already")

// lockPatience is for a daemon that has the lock and does not answer: one that is just
// starting, or about to end.
const lockPatience = 15 * time.Second

// lock takes the home's lock and writes the pid. The function that it returns undoes both.
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
		if answers(ctx, home) || time.Now().After(until) {
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
	case store.IsFull(err): // the daemon must start without a pid file, because it is needed to delete sandboxes
		_ = os.Remove(pid) // the pid file of an earlier daemon
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

// pidNote is " (pid 123)", if that is known.
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

// answers reports whether the home's daemon does.
func answers(ctx context.Context, home string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	c := api.Dial(SocketPath(home))
	defer c.Close()
	return c.Healthy(ctx) == nil
}
