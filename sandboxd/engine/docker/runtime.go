package docker

import (
	"os/exec"

	"github.com/docker/docker/api/types/system"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
)

// ociRuntime is a container's runtime (runc, runsc) as containerd calls it. Where that is on this machine, and we are root, `guest
// connect` is run by it and not by the engine's exec: its stdin and stdout are our pipes then, and not a socket, the
// engine, two of containerd's pipes for each direction and its shim, which cost several times what the sandbox does.
type ociRuntime struct {
	program string
	root    string // the folder where it keeps what it knows of its containers
}

// connect is the call that runs `guest connect` in a container, with the rights that the container's configuration gives its guest.
func (r ociRuntime) connect(container string) *exec.Cmd {
	args := append([]string{"--root=" + r.root, "exec", "--user=0:0", "--cwd=/", container}, engine.ConnectArgs()...)
	cmd := exec.Command(r.program, args...)
	cmd.Env = []string{"PATH=" + defaultPath}
	cmd.Dir = "/"
	return cmd
}

// directExec reports whether guests may be reached through the container's runtime. That would bypass an authorization plugin, which
// decides about the calls of the engine.
func directExec(local, off bool, sys system.Info) bool {
	return local && !off && len(sys.Plugins.Authorization) == 0
}

// runtimeOf returns the runtime of a container, of which the engine says that its first process is pid, where it can be called.
func (e *Engine) runtimeOf(container string, pid int) (ociRuntime, bool) {
	if !e.direct {
		return ociRuntime{}, false
	}
	return localRuntime(container, pid)
}
