package gvisor

import (
	"cmp"
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/durable"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/streams"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// findRunsc returns the program to use, and why.
func findRunsc(asked string) (path, why string, err error) {
	if asked != "" {
		if _, err := os.Stat(asked); err != nil {
			return "", "", sandbox.Errorf(sandbox.Unavailable, "there is no runsc where it was said to be").WithCause(err)
		}
		return asked, "runsc as asked for", nil
	}
	if self, err := os.Executable(); err == nil {
		if self, err = filepath.EvalSymlinks(self); err == nil {
			beside := filepath.Join(filepath.Dir(self), "runsc")
			if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
				return beside, "the runsc beside dormouse", nil
			}
		}
	}
	if path, err := exec.LookPath("runsc"); err == nil {
		return path, "the runsc in PATH", nil
	}
	return "", "", sandbox.Errorf(sandbox.Unavailable,
		"the gvisor engine needs gVisor's runsc beside the dormouse program or in PATH: `make build` makes it")
}

// runscVersion is the version of the Go module that the program was built from, if it says.
func runscVersion(path string) string {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	version := info.Main.Version
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == "gvisor.dev/gvisor" {
			version = m.Version
		}
	}
	return cmp.Or(version, "unknown")
}

// isOurs reports whether a program is the runsc of third_party/runsc, and not another build of gVisor.
func isOurs(path string) bool {
	info, err := buildinfo.ReadFile(path)
	return err == nil && strings.HasPrefix(info.Main.Path, "github.com/dormouse-sandbox/dormouse/")
}

// buildOf names a program by its content: Go's own build id is a hash of it, and quickly read.
func buildOf(path string) (string, error) {
	sum := sha256.New()
	file, err := elf.Open(path)
	if err != nil {
		return "", fmt.Errorf("read runsc: %w", err)
	}
	defer file.Close()
	if note := file.Section(".note.go.buildid"); note != nil {
		_, err = io.Copy(sum, note.Open())
	} else {
		var whole *os.File
		if whole, err = os.Open(path); err == nil {
			_, err = io.Copy(sum, whole)
			err = errors.Join(err, whole.Close())
		}
	}
	return hex.EncodeToString(sum.Sum(nil))[:12], err
}

// keepRunsc keeps the program under the name of its build, which it returns: a sandbox
// needs the runsc that made it as long as it lives, and a checkpoint the one that wrote it. It is a link to a
// copy that homes share, and not to the program itself, which somebody may write over.
func (l layout) keepRunsc(path string, shared images) (build string, err error) {
	build, err = buildOf(path)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("keep runsc: %w", err)
	}
	whole := func(path string) bool {
		have, err := os.Stat(path)
		if err != nil || have.Size() != info.Size() {
			return false
		}
		itsBuild, err := buildOf(path)
		return err == nil && itsBuild == build
	}
	kept := l.runsc(build)
	if whole(kept) {
		return build, nil
	}
	share := shared.program(build)
	if !whole(share) {
		if err := os.MkdirAll(filepath.Dir(share), 0o700); err != nil {
			return "", fmt.Errorf("keep runsc: %w", err)
		}
		if err := placeProgram(share, func(making string) error { return copyProgram(path, making) }); err != nil {
			return "", fmt.Errorf("keep runsc: %w", err)
		}
	}
	err = placeProgram(kept, func(making string) error {
		if os.Link(share, making) == nil {
			return nil
		}
		return copyProgram(share, making) // on another file system
	})
	if err != nil {
		return "", fmt.Errorf("keep runsc: %w", err)
	}
	return build, nil
}

// placeProgram makes a program under another name first.
func placeProgram(path string, write func(making string) error) error {
	dir, err := os.MkdirTemp(filepath.Dir(path), ".making-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	making := filepath.Join(dir, "runsc")
	if err := write(making); err != nil {
		return err
	}
	return durable.Rename(making, path)
}

func copyProgram(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	file, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, source)
	return errors.Join(err, file.Close())
}

// flags are runsc's for every call, and part of what isolates a sandbox.
func (l layout) flags(ignoreCgroups bool) []string {
	list := []string{
		"--root=" + l.runscRoot(),
		"--platform=systrap",
		"--network=none",  // a loopback of gVisor's own, and nothing else
		"--overlay2=none", // what can be written is in mounts, with a size
		"--host-uds=none",
		"--host-fifo=none",
		"--oci-seccomp",                  // the profile's filter, in gVisor's kernel
		"--file-access-mounts=exclusive", // our files never change
		// A namespace of its own, and no mount in runsc's folder to share one.
		"--gofer-network-namespace=new",
	}
	if ignoreCgroups {
		list = append(list, "--ignore-cgroups")
	}
	return list
}

// arguments are those of a call of runsc.
func (e *Engine) arguments(args []string) []string {
	return append(e.layout.flags(e.cgroups.missing != "" || e.cgroups.ours), args...)
}

// command is a call of runsc in a session of its own: what is meant for the daemon's
// terminal or process group does not reach a sandbox.
func (e *Engine) command(build string, args ...string) *exec.Cmd {
	cmd := exec.Command(e.layout.runsc(build), e.arguments(args)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir = e.layout.dir
	detach(cmd)
	return cmd
}

// runscTimeout bounds a call of runsc. None is given up earlier: half of what it does may be done.
const runscTimeout = 2 * time.Minute

// call runs runsc and returns what it said if it failed.
func (e *Engine) call(ctx context.Context, build string, args ...string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s, err := e.stream(build, args...)
	if err != nil {
		return fmt.Errorf("runsc %s: %w", args[0], err)
	}
	defer s.Close()
	timeout := time.AfterFunc(runscTimeout, s.Kill)
	defer timeout.Stop()
	if err := s.Wait(); err != nil {
		return fmt.Errorf("runsc %s: %w", args[0], err)
	}
	return nil
}

// stream starts runsc, or tells one that stands by, which says on stderr why it fails, and logs nothing.
func (e *Engine) stream(build string, args ...string) (*streams.Program, error) {
	args = append([]string{"--log=/dev/null"}, args...)
	if s := e.standbys.take(build); s != nil && s.tell(e.arguments(args)) {
		return s.Program, nil
	}
	return streams.Start(e.command(build, args...))
}

// start runs a command that makes processes which go on, in a cgroup if one is given. They would keep a pipe to
// stderr, so what it says is read from its log while it runs; what is logged later goes nowhere.
func (e *Engine) start(ctx context.Context, cgroup *os.File, cmd *exec.Cmd, what string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd.ExtraFiles = []*os.File{writer}
	if cgroup != nil {
		startIn(cmd, cgroup)
	}
	said, read := &streams.Bounded{Max: 8 << 10}, make(chan struct{})
	go func() {
		io.Copy(said, reader)
		close(read)
	}()
	startErr := e.run(cmd, said, what)
	writer.Close()
	if startErr != nil {
		select { // whoever wrote is gone by now, or hangs
		case <-read:
		case <-time.After(200 * time.Millisecond):
		}
	}
	reader.Close()
	<-read
	if startErr != nil {
		return fmt.Errorf("%w: %s", startErr, said)
	}
	return nil
}

func (e *Engine) run(cmd *exec.Cmd, said *streams.Bounded, what string) error {
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("runsc %s: %w", what, err)
	}
	// The processes that runsc starts inherit the score. It can't be set in the OCI bundle: then the bundle would differ from those of
	// older checkpoints, and runsc would refuse to restore them.
	raiseOOMScore(cmd.Process.Pid)
	cmd.WaitDelay = time.Second
	timeout := time.AfterFunc(runscTimeout, func() { cmd.Process.Kill() })
	defer timeout.Stop()
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("runsc %s: %w: %s", what, err, said)
	}
	return nil
}
