package gvisor

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/rootfs"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/stdio"
)

// ProcessesOf returns the pids of all processes of a sandbox.
func (e *Engine) ProcessesOf(id sandbox.ID) ([]int, error) {
	return e.processesOf(e.layout.InstanceOf(id), e.layout.Process(id))
}

// ConfigFile returns the path of a sandbox's OCI configuration.
func (e *Engine) ConfigFile(id sandbox.ID) string {
	return e.layout.Config(id)
}

// Refs returns the names of the unpacked images.
func (e *Engine) Refs() (refs []string) {
	files, _ := filepath.Glob(filepath.Join(e.images.Dir, "refs", "*.json"))
	for _, file := range files {
		var img rootfs.Image
		if err := folder.ReadJSON(file, &img); err != nil {
			continue
		}
		if _, err := os.Stat(e.images.Root(img.Digest)); err == nil {
			refs = append(refs, img.Ref)
		}
	}
	return refs
}

// Command returns a command that runs runsc with args, after the flags that the engine passes to every call.
func (e *Engine) Command(args ...string) *exec.Cmd { return e.runsc.Command(e.build, args...) }

// Pooled returns the name of the pooled sandbox that is ready, or an empty string.
func (e *Engine) Pooled() string {
	e.pool.mu.Lock()
	defer e.pool.mu.Unlock()
	if e.pool.ready == nil {
		return ""
	}
	return e.pool.ready.Name
}

// Own reports whether a stream goes over the guest's own stdin and stdout, and not through `guest connect`.
func Own(conn net.Conn) bool {
	_, ok := conn.(*stdio.Stream)
	return ok
}

// SetMakingLife sets the TTL of the sandboxes that snapshots are made from.
func SetMakingLife(d time.Duration) { makingLife = d }
