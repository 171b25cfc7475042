// Package engine defines [Engine], the interface to a program that runs sandboxes' containers. Each implementation
// has its own folder and passes the conformance suite in engine/enginetest. An engine handles containers only;
// kernels, TTLs and executions are outside of it.
//
//   - [Engine] and its types: [Info], [Spec], [Container], [Bundle] (engine.go)
//   - optional abilities of an engine: [Suspender], [Checkpointer], [Forker], [Snapshotter], [Opener], which [As]
//     finds (optional.go)
//   - the isolation that all engines share: the system call filter (seccomp.go), masked paths (masked.go), limits
//     (limits.go)
//   - the commands that start and reach the guest (guestargs.go)
//   - errors that all engines return, and [Cleanup] (errors.go)
//   - [Check]: a result of `dormouse doctor` (check.go)
//
// Package manager calls the engines.
package engine

import (
	"context"
	"io/fs"
	"net"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Engine runs containers. It is safe for concurrent use. Its methods return a [sandbox.Error] if a person can solve
// the problem: an engine that does not answer and a missing image are unavailable, and a missing container is
// not_found.
type Engine interface {
	// Info describes the engine. The result does not change after the engine is opened.
	Info() Info
	// Create creates and starts a container, and returns when its guest can be dialled. If Create fails, no container
	// is left. Create fails if a container with that id exists.
	Create(ctx context.Context, spec Spec) error
	// Dial returns a byte stream to the guest's socket. The caller closes it.
	Dial(ctx context.Context, id sandbox.ID) (net.Conn, error)
	// Remove stops and removes the container. It is no error if the container does not exist.
	Remove(ctx context.Context, id sandbox.ID) error
	// List returns all containers of this daemon's home, running or not.
	List(ctx context.Context) ([]Container, error)
	// Close releases the engine's own resources. The containers continue to run.
	Close() error
}

// Info describes an engine.
type Info struct {
	Name      string   // the engine's name, such as docker
	Runtime   string   // the runtime of the sandboxes, such as runc or runsc
	Runtimes  []string // all runtimes that the engine has
	Version   string   // the engine's version
	Isolation string   // a short description for a person
	Why       string   // why this engine and runtime were chosen
	CPUs      int      // the number of CPUs of the machine that runs the containers
	Memory    int64    // the memory of the machine that runs the containers, in bytes
	Warnings  []string // weaknesses of the setup, each with a remedy
	// Suspend is what [Suspender] does with a sandbox's memory. It is empty if the engine is no Suspender.
	Suspend Suspension
}

// Suspension is where a suspended sandbox's memory is.
type Suspension string

// Ways to suspend.
const (
	ToDisk Suspension = "disk"  // in a checkpoint: the sandbox has no process and uses no memory
	Paused Suspension = "pause" // frozen: the sandbox keeps its memory, and is lost when the machine stops
)

// Spec contains everything that determines a container.
type Spec struct {
	ID     sandbox.ID
	Image  string
	Limits sandbox.Limits
	// UID is the user and group that kernels run as. It is unique among the live sandboxes that run on the same
	// machine kernel.
	UID int
	// Expires is the sandbox's expiry. If the daemon has not removed the sandbox by then, the guest waits for a grace
	// period and then ends the sandbox itself.
	Expires time.Time
	// Language is the language of the kernel that the guest starts before the first execution.
	Language sandbox.Language
}

// Container describes one of the engine's containers.
type Container struct {
	ID      sandbox.ID
	Running bool
	// Suspended is true if the container does not run and [Suspender] can resume it.
	Suspended bool
	// AsOf is the time of the checkpoint that Resume would restore, if the sandbox continued to run after the
	// checkpoint and its processes have died since. It is zero if Resume would lose nothing.
	AsOf time.Time
	// StateBytes is the size of the saved state on disk. It is 0 if there is none or if the size is unknown.
	StateBytes int64
	// Detail describes the state of a container that does not run, such as "exited with 137 (out of memory)".
	Detail string
}

// Bundle contains the files of the guest, which are mounted into every container at [BundleDir], read-only and
// independent of the image.
type Bundle interface {
	// ID returns 12 hex digits that change when any file changes.
	ID() string
	// Files returns the files for an architecture (a GOARCH). The file named guest at the root is executable.
	Files(arch string) (fs.FS, error)
}

// Paths in a container.
const (
	// BundleDir is where the [Bundle] is mounted, read-only.
	BundleDir = "/opt/dormouse"
	// RunDir is a tmpfs for the guest's socket and stored output. Only uid 0, the guest, can enter it.
	RunDir = "/run/dormouse"
	// RunDirBytes is the size limit of RunDir.
	RunDirBytes = 160 * sandbox.MiB
)
