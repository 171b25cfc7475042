// Package engine is what runs sandboxes' containers: the [Engine] interface, and a
// folder for each implementation. An engine knows containers and nothing of kernels,
// TTLs or executions. Each one passes the same suite, engine/enginetest.
package engine

import (
	"context"
	"io/fs"
	"net"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Engine runs containers. Its methods may be called concurrently. They return
// [sandbox.Error] where a person can do something about it (an engine that does not
// answer and an image that is missing are unavailable; a container that is not there is not_found).
type Engine interface {
	// Info says what the engine is, as it was when it was opened.
	Info() Info
	// Create makes and starts a container and returns when its guest can be dialled.
	// A failed Create leaves nothing behind. Creating an id that is there is an error.
	Create(ctx context.Context, spec Spec) error
	// Dial returns a byte stream to the guest's socket. The caller closes it.
	Dial(ctx context.Context, id sandbox.ID) (net.Conn, error)
	// Remove stops and removes the container. One that is not there is no error.
	Remove(ctx context.Context, id sandbox.ID) error
	// List returns all containers of this daemon's home, running or not.
	List(ctx context.Context) ([]Container, error)
	// Close lets go of the engine's own resources. Containers stay.
	Close() error
}

// Info describes an engine.
type Info struct {
	Name      string   // docker
	Runtime   string   // runc, runsc: what sandboxes run under
	Runtimes  []string // that the engine has
	Version   string   // of the engine
	Isolation string   // in a few words, for a person
	Why       string   // why this engine and runtime were chosen
	CPUs      int      // of the machine that runs the containers
	Memory    int64    // of that machine, in bytes
	Warnings  []string // what is weaker than it could be, with the remedy
	// Suspend is what [Suspender] does with the memory here. Empty: the engine is none.
	Suspend Suspension
}

// Suspension is where a suspended sandbox's memory is.
type Suspension string

// Ways to suspend.
const (
	ToDisk Suspension = "disk"  // checkpointed: no process, no memory
	Paused Suspension = "pause" // frozen: it keeps its memory, and ends with the machine
)

// Spec is all that decides a container.
type Spec struct {
	ID     sandbox.ID
	Image  string
	Limits sandbox.Limits
	// UID is the user and group that kernels run as, unique among live sandboxes that share a kernel.
	UID int
	// Expires is when the guest ends the sandbox by itself if nobody did.
	Expires time.Time
	// Language is the kernel that the guest starts ahead of the first execution.
	Language sandbox.Language
}

// Container is one that the engine has.
type Container struct {
	ID      sandbox.ID
	Running bool
	// Suspended: it does not run, and [Suspender] can resume it.
	Suspended bool
	// AsOf is when the state was saved that Resume brings back, if the sandbox ran on after that and its
	// processes have died. Zero: nothing is lost.
	AsOf time.Time
	// StateBytes is what its saved state takes on disk.
	StateBytes int64
	// Detail says how it ended, if it did: "exited with 137 (out of memory)".
	Detail string
}

// Bundle is the guest as it is injected into a container: read-only files at
// [BundleDir], the same for every image.
type Bundle interface {
	// ID changes when any file changes: 12 hex digits.
	ID() string
	// Files returns the tree for an architecture (GOARCH); guest at its root is executable.
	Files(arch string) (fs.FS, error)
}

// Places in a container.
const (
	// BundleDir is where the [Bundle] is mounted, read-only.
	BundleDir = "/opt/dormouse"
	// RunDir is a tmpfs that only uid 0, the guest, can enter: its socket and kept output.
	RunDir = "/run/dormouse"
	// RunDirBytes bounds RunDir.
	RunDirBytes = 160 * sandbox.MiB
)
