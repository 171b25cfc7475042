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
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/rootfs"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/streams"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// findRunsc returns the path of the runsc program to use, and a text for people that says why this program was chosen.
// The parameter asked is the configured path, or empty.
func findRunsc(asked string) (path, why string, err error) {
	if asked != "" {
		if _, err := os.Stat(asked); err != nil {
			return "", "", sandbox.Errorf(sandbox.Unavailable, "there is no runsc at the configured path").WithCause(err)
		}
		return asked, "the configured runsc", nil
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
		"the gvisor engine needs gVisor's runsc beside the dormouse program or in PATH: `make build` builds it")
}

// runscVersion returns the version of gVisor's Go module in the program's build information, or "unknown".
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

// isPatchedRunsc reports whether a program was built from third_party/runsc, and not from gVisor's own sources.
func isPatchedRunsc(path string) bool {
	info, err := buildinfo.ReadFile(path)
	return err == nil && strings.HasPrefix(info.Main.Path, "github.com/dormouse-sandbox/dormouse/")
}

// buildOf returns a name for a program that depends on its content. The name is a hash of Go's build id, if the program
// has one, because the build id changes with the content and is fast to read. Otherwise it is a hash of the whole file.
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

// keepRunsc stores the program in the engine's folder and returns the name of its build. The program must be stored
// because a sandbox needs the runsc that created it as long as it exists, and a checkpoint needs the runsc that wrote it.
// The stored program is a hard link to a copy that all homes share. It is not a link to the program at path, because that
// file may be overwritten.
func keepRunsc(l folder.Layout, path string, shared *rootfs.Images) (build string, err error) {
	build, err = buildOf(path)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("store runsc: %w", err)
	}
	whole := func(path string) bool {
		have, err := os.Stat(path)
		if err != nil || have.Size() != info.Size() {
			return false
		}
		itsBuild, err := buildOf(path)
		return err == nil && itsBuild == build
	}
	kept := l.Runsc(build)
	if whole(kept) {
		return build, nil
	}
	share := shared.Program(build)
	if !whole(share) {
		if err := os.MkdirAll(filepath.Dir(share), 0o700); err != nil {
			return "", fmt.Errorf("store runsc: %w", err)
		}
		if err := placeProgram(share, func(making string) error { return copyProgram(path, making) }); err != nil {
			return "", fmt.Errorf("store runsc: %w", err)
		}
	}
	err = placeProgram(kept, func(making string) error {
		if os.Link(share, making) == nil {
			return nil
		}
		return copyProgram(share, making) // a hard link is impossible: the two folders are on different file systems
	})
	if err != nil {
		return "", fmt.Errorf("store runsc: %w", err)
	}
	return build, nil
}

// placeProgram creates the program at path. It calls write to write the program under another name, and then syncs and
// renames it, so that a program at path is always complete.
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

// flags returns the flags for every call of runsc. They are part of a sandbox's isolation.
func flags(l folder.Layout, ignoreCgroups bool) []string {
	list := []string{
		"--root=" + l.RunscRoot(),
		"--platform=systrap",
		"--network=none",  // a sandbox has only gVisor's loopback interface
		"--overlay2=none", // the only writable files are in mounts, which have a size limit
		"--host-uds=none",
		"--host-fifo=none",
		"--oci-seccomp",                  // gVisor's kernel applies the profile's seccomp filter
		"--file-access-mounts=exclusive", // the mounted files of the host never change
		// The gofer of each sandbox gets its own network namespace. For a network namespace that all gofers share,
		// runsc would need a mount in its folder.
		"--gofer-network-namespace=new",
	}
	if ignoreCgroups {
		list = append(list, "--ignore-cgroups")
	}
	return list
}

// command returns a call of runsc in its own session, so that signals to the daemon's terminal or process group do not
// reach sandboxes.
func (e *Engine) command(build string, args ...string) *exec.Cmd {
	cmd := exec.Command(e.layout.Runsc(build), append(flags(e.layout, e.cgroups.RunscIgnores()), args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir = e.layout.Dir
	detach(cmd)
	return cmd
}

// runscTimeout limits the duration of a call of runsc. A call that has started is not interrupted when its context
// ends, because an interrupted call could leave its work half done.
const runscTimeout = 2 * time.Minute

// call runs runsc and waits until it ends. If it fails, the error contains its stderr. call does not start runsc if ctx
// has ended, but the end of ctx does not interrupt it.
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

// stream starts runsc. It turns the log of runsc off, because runsc writes the reason of a failure to stderr, too. The
// caller must close the result.
func (e *Engine) stream(build string, args ...string) (*streams.Program, error) {
	return streams.Start(e.command(build, append([]string{"--log=/dev/null"}, args...)...))
}

// start runs a command of runsc that leaves processes running, and waits until the command itself has ended. If cgroup
// is not nil, the command and these processes run in that cgroup. Errors contain the
// parameter what, the name of the command.
//
// start does not read the command's stderr: the remaining processes inherit it, so a read would not end before they do.
// Instead, start reads the messages that the command writes to its log, which is a pipe (--log-fd=3), and closes the
// pipe when the command has ended. Later messages are dropped.
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
		startInCgroup(cmd, cgroup)
	}
	said, read := &streams.Bounded{Max: 8 << 10}, make(chan struct{})
	go func() {
		io.Copy(said, reader)
		close(read)
	}()
	startErr := e.run(cmd, said, what)
	writer.Close()
	if startErr != nil {
		// Wait for the rest of the log, but at most 200 ms: a process that hangs may keep the pipe open.
		select {
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
	// The processes that runsc starts inherit the score. The score can't be set in the OCI configuration: the configuration
	// would then differ from that of older checkpoints, and runsc would refuse to restore them.
	raiseOOMScore(cmd.Process.Pid)
	cmd.WaitDelay = time.Second
	timeout := time.AfterFunc(runscTimeout, func() { cmd.Process.Kill() })
	defer timeout.Stop()
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("runsc %s: %w: %s", what, err, said)
	}
	return nil
}
