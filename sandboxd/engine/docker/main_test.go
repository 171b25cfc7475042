//go:build linux

package docker_test

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/docker"
)

// TestMain fails if the tests leave a container, a container's process, or a temporary file.
func TestMain(m *testing.M) {
	made := watchContainers()
	killForgottenShims = made.killForgottenShims
	code := m.Run()
	for _, left := range made.left(time.Minute) {
		fmt.Fprintln(os.Stderr, "the tests left behind:", left)
		code = max(code, 1)
	}
	os.Exit(code)
}

// privateDirs is the prefix of the paths of the folders of this process's private engines.
var privateDirs = filepath.Join(os.TempDir(), fmt.Sprintf("dm-%d-", os.Getpid()))

// containers records the containers that are created on this machine's engine while the tests run.
type containers struct {
	api  *client.Client
	end  context.CancelFunc
	mu   sync.Mutex
	byID map[string]string // maps a container's id to its home, or to the guest's build if its labels name no home
}

// watchContainers starts to record the containers that are created on this machine's engine. Without an engine, it
// records nothing.
func watchContainers() *containers {
	c := &containers{byID: map[string]string{}, end: func() {}}
	e, err := docker.New(context.Background(), docker.Config{Home: "test"})
	if err != nil {
		return c // the tests report the error
	}
	host := e.Host()
	e.Close()
	if c.api, err = client.NewClientWithOpts(client.WithHost(host), client.WithAPIVersionNegotiation()); err != nil {
		return c
	}
	var ctx context.Context
	ctx, c.end = context.WithCancel(context.Background())
	messages, failed := c.api.Events(ctx, events.ListOptions{Filters: filters.NewArgs(
		filters.Arg("type", "container"), filters.Arg("event", "create"))})
	go func() {
		for {
			select {
			case message := <-messages:
				c.mu.Lock()
				// The helper container that installs the guest has no label with a home, but one with the guest's build.
				c.byID[message.Actor.ID] = cmp.Or(message.Actor.Attributes["dormouse.home"], message.Actor.Attributes["dormouse.guest"])
				c.mu.Unlock()
			case <-failed:
				return
			}
		}
	}()
	return c
}

// killForgottenShims kills the shims of the tests' containers that the engine no longer manages.
func (c *containers) killForgottenShims(t testing.TB) {
	c.mu.Lock()
	defer c.mu.Unlock()
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range lines {
		line, err := os.ReadFile(path)
		args := strings.Split(string(line), "\x00")
		i := slices.Index(args, "-id")
		if err != nil || !strings.Contains(args[0], "containerd-shim") || i < 0 || i+1 >= len(args) {
			continue
		}
		id := args[i+1]
		if _, ours := homes.Load(c.byID[id]); !ours {
			continue
		}
		if _, err := c.api.ContainerInspect(context.Background(), id); !cerrdefs.IsNotFound(err) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil {
			err = syscall.Kill(pid, syscall.SIGKILL)
		}
		t.Logf("killed process %[2]d, the shim of container %[1]s, which the engine no longer manages: error %[3]v", id, pid, err)
	}
}

// left waits until nothing is left of the tests, but no longer than the given duration. It returns a description of
// each container, process and folder that remains.
func (c *containers) left(within time.Duration) (left []string) {
	for end := time.Now().Add(within); ; time.Sleep(200 * time.Millisecond) {
		left = c.findLeftovers()
		if len(left) == 0 || time.Now().After(end) {
			c.end()
			return left
		}
	}
}

// findLeftovers returns a description of each container, process and folder of the tests that exists now.
func (c *containers) findLeftovers() (left []string) {
	marks := []string{privateDirs}
	c.mu.Lock()
	for id, home := range c.byID {
		if _, ours := homes.Load(home); !ours {
			continue // another test process has created the container
		}
		marks = append(marks, id)
		if found, err := c.api.ContainerInspect(context.Background(), id); err == nil {
			left = append(left, "container "+found.Name)
		}
	}
	c.mu.Unlock()
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range lines {
		if line, err := os.ReadFile(path); err == nil && containsAny(line, marks) {
			left = append(left, "process "+filepath.Base(filepath.Dir(path))+": "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	dirs, _ := filepath.Glob(privateDirs + "*")
	left = append(left, dirs...)
	copies, _ := filepath.Glob(filepath.Join(os.TempDir(), "ct*d-checkpoint*", "checkpoint.img"))
	for _, path := range copies {
		if containsAny(start(path), marks) {
			left = append(left, "memory in "+filepath.Dir(path))
		}
	}
	return left
}

func containsAny(text []byte, marks []string) bool {
	for _, mark := range marks {
		if bytes.Contains(text, []byte(mark)) {
			return true
		}
	}
	return false
}

// start returns the beginning of a checkpoint file, in which gVisor writes the container's id.
func start(path string) []byte {
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer file.Close()
	text, _ := io.ReadAll(io.LimitReader(file, 64<<10))
	return text
}

// copiesOf lists the copies of a container's memory that containerd has left on this machine.
func copiesOf(container string) (copies []string) {
	paths, _ := filepath.Glob(filepath.Join(os.TempDir(), "ct*d-checkpoint*", "checkpoint.img"))
	for _, path := range paths {
		if bytes.Contains(start(path), []byte(container)) {
			copies = append(copies, filepath.Dir(path))
		}
	}
	return copies
}
