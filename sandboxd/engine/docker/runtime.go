package docker

import (
	"os/exec"

	"github.com/docker/docker/api/types/system"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
)

// ociRuntime is a container's OCI runtime (runc, runsc), as containerd calls it. If the runtime is on this machine
// and this process is root, the runtime itself runs `guest connect`, not the engine's exec. The stdin and stdout of
// `guest connect` are then pipes of this process. With the engine's exec, the bytes go through a socket, the engine,
// two pipes of containerd for each direction, and containerd's shim, which costs several times as much as the
// sandbox's own work.
type ociRuntime struct {
	program string
	root    string // the folder where the runtime keeps the state of its containers
}

// connect returns the command that runs `guest connect` in a container, with the rights that the container's
// configuration gives the guest.
func (r ociRuntime) connect(container string) *exec.Cmd {
	args := append([]string{"--root=" + r.root, "exec", "--user=0:0", "--cwd=/", container}, engine.ConnectArgs()...)
	cmd := exec.Command(r.program, args...)
	cmd.Env = []string{"PATH=" + defaultPath}
	cmd.Dir = "/"
	return cmd
}

// directExec reports whether guests may be reached through the container's runtime. local is true if the engine may be
// on this machine, and off is [Config].NoDirectExec. An engine with an authorization plugin must always be asked,
// because the plugin checks only calls to the engine.
func directExec(local, off bool, sys system.Info) bool {
	return local && !off && len(sys.Plugins.Authorization) == 0
}

// runtimeOf returns the runtime of a container if this process can call the runtime. pid is the pid of the container's
// first process, as the engine reports it.
func (e *Engine) runtimeOf(container string, pid int) (ociRuntime, bool) {
	if !e.direct {
		return ociRuntime{}, false
	}
	return localRuntime(container, pid)
}
