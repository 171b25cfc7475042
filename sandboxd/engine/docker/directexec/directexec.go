// Package directexec runs `guest connect` in a container through the container's own OCI runtime (runc, runsc), without
// the Docker engine. Package docker uses it for the stream to a guest.
//
// With the engine's exec, the bytes go through a socket, the engine, two pipes of containerd for each direction, and
// containerd's shim. With the runtime's exec, the stdin and stdout of `guest connect` are pipes of this process. Both
// ways were measured side by side on two busy cores. Under runc, 100 MB into a sandbox took 0.46 s instead of 0.64 s,
// and 100 MB out of it 0.29 s instead of 0.67 s. Under runsc, it was 0.53 s instead of 1.22 s, and 0.34 s instead of
// 1.17 s. Small calls take the same time.
//
// # Why this is safe
//
// The daemon executes a program as root whose path it has read from a file, so the file must be root's own:
//
//   - The daemon itself must be root, and the engine must be on this machine. Otherwise [Find] finds nothing, or package
//     docker does not call it.
//   - The pid of the container's first process comes from the engine. Its parent must be containerd's shim of exactly
//     this container: the shim's arguments name the container's id. So a pid that another process has by now, or that an
//     engine on another machine has reported, leads to no runtime.
//   - All user and group ids of the shim must be 0, and the shim must see the same files as the daemon. The effective
//     user id alone is not enough: a set-user-id program gets its arguments and its working directory from the user who
//     starts it.
//   - containerd records the runtime in options.json in the shim's working directory. The folder and the file must
//     belong to root, and no other user may be able to write them. The folder is opened once, and the file is opened
//     relative to the folder's descriptor, without following links, because a path could lead elsewhere when it is used
//     again.
//   - After the checks, the same process must still have the shim's pid, and the first process must still have the same
//     parent.
//
// The command runs with the rights that the container's configuration gives the guest, as with the engine's exec. An
// authorization plugin of the engine does not see the command, so package docker uses this package only for engines
// without such a plugin.
package directexec

import (
	"os/exec"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
)

// Runtime is the OCI runtime of a container, as containerd calls it. [Find] returns it.
type Runtime struct {
	Program string
	root    string // the folder where the runtime keeps the state of its containers
}

// path is the value of PATH for the runtime.
const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Connect returns the command that runs `guest connect` in a container, with the rights that the container's
// configuration gives the guest.
func (r Runtime) Connect(container string) *exec.Cmd {
	args := append([]string{"--root=" + r.root, "exec", "--user=0:0", "--cwd=/", container}, engine.ConnectArgs()...)
	cmd := exec.Command(r.Program, args...)
	cmd.Env = []string{path}
	cmd.Dir = "/"
	return cmd
}
