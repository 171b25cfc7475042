package runsc

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/streams"
)

// Flags returns the flags for every call of runsc. They are part of a sandbox's isolation.
func Flags(l folder.Layout, ignoreCgroups bool) []string {
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

// Caller calls the builds of runsc that are stored in a folder.
type Caller struct {
	Layout        folder.Layout
	IgnoreCgroups bool // runsc neither creates nor checks the cgroups of sandboxes
}

// Command returns a command that runs runsc in its own session, so that signals to the daemon's terminal or process group
// do not reach sandboxes.
func (c Caller) Command(build string, args ...string) *exec.Cmd {
	cmd := exec.Command(c.Layout.Runsc(build), append(Flags(c.Layout, c.IgnoreCgroups), args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir = c.Layout.Dir
	detach(cmd)
	return cmd
}

// callTimeout limits the duration of a call of runsc. A call that has started is not interrupted when its context
// ends, because an interrupted call could leave its work half done.
const callTimeout = 2 * time.Minute

// Call runs runsc and waits until it ends. If it fails, the error contains its stderr. Call does not start runsc if ctx
// has ended, but the end of ctx does not interrupt it.
func (c Caller) Call(ctx context.Context, build string, args ...string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s, err := c.Stream(build, args...)
	if err != nil {
		return fmt.Errorf("runsc %s: %w", args[0], err)
	}
	defer s.Close()
	timeout := time.AfterFunc(callTimeout, s.Kill)
	defer timeout.Stop()
	if err := s.Wait(); err != nil {
		return fmt.Errorf("runsc %s: %w", args[0], err)
	}
	return nil
}

// Stream starts runsc. It turns the log of runsc off, because runsc writes the reason of a failure to stderr, too. The
// caller must close the result.
func (c Caller) Stream(build string, args ...string) (*streams.Program, error) {
	return streams.Start(c.Command(build, append([]string{"--log=/dev/null"}, args...)...))
}

// Start runs a command of runsc that leaves processes running, and waits until the command itself has ended. If cgroup
// is not nil, the command and these processes run in that cgroup. Errors contain the parameter what, the name of the
// command.
//
// Start does not read the command's stderr: the remaining processes inherit it, so a read would not end before they do.
// Instead, Start reads the messages that the command writes to its log, which is a pipe (--log-fd=3), and closes the
// pipe when the command has ended. Later messages are dropped.
func Start(ctx context.Context, cgroup *os.File, cmd *exec.Cmd, what string) error {
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
	startErr := run(cmd, said, what)
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

func run(cmd *exec.Cmd, said *streams.Bounded, what string) error {
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("runsc %s: %w", what, err)
	}
	// The processes that runsc starts inherit the score. The score can't be set in the OCI configuration: the configuration
	// would then differ from that of older checkpoints, and runsc would refuse to restore them.
	RaiseOOMScore(cmd.Process.Pid)
	cmd.WaitDelay = time.Second
	timeout := time.AfterFunc(callTimeout, func() { cmd.Process.Kill() })
	defer timeout.Stop()
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("runsc %s: %w: %s", what, err, said)
	}
	return nil
}
