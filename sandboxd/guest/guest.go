// Package guest defines the protocol between the daemon and the guest, the supervisor that is PID 1 in a sandbox: the
// routes, and the [Client] that the manager uses. The guest itself is package supervisor, its kernels are in package
// kernels, and package bundle contains all files of the guest for injection into containers.
//
// The protocol is HTTP/2 without TLS (net/http's implementation) over one byte stream. The stream is either the stdin
// and stdout of `guest connect`, which passes them to the guest through the guest's socket, or the guest's own stdin
// and stdout (package stdio). Bodies are JSON with the types of package sandbox, except for files, which are sent
// unencoded. Errors are a [sandbox.Error] as JSON with the HTTP status of its kind. All data from a guest is checked in
// sanitize.go. docs/guest-protocol.md has the details.
package guest

import "github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"

// SocketPath is the guest's socket inside the container. Only uid 0 can reach it.
const SocketPath = "/run/dormouse/guest.sock"

// Routes of the guest, with the types of the request body (before the arrow) and of the answer. SEQ is the number of an
// event.
//
//	GET  /v1/status                                  Status
//	PUT  /v1/expiry                                  Expiry → nothing
//	POST /v1/awakening                               Restore → nothing
//	POST /v1/preparation                             Preparation → nothing, when that kernel is ready
//	PUT  /v1/executions/{id}?wait=SECONDS            sandbox.ExecuteRequest → sandbox.Execution; a second PUT with this id returns the same execution
//	GET  /v1/executions/{id}?wait=&offset=&head=&tail=   sandbox.Execution with the window's events
//	GET  /v1/executions/{id}/events?from=SEQ         one sandbox.Event a line, from SEQ on, until the execution is final
//	POST /v1/executions/{id}/interrupt               sandbox.Execution when it has stopped
//	GET  /v1/files                                   FileList
//	PUT  /v1/files/{path...}                         a plain body → sandbox.File without its hash
//	GET  /v1/files/{path...}?offset=&length=        a plain body: length bytes from offset on; X-Dormouse-Size has the whole size
const (
	StatusRoute     = "/v1/status"
	ExpiryRoute     = "/v1/expiry"
	RestoreRoute    = "/v1/awakening"
	PrepareRoute    = "/v1/preparation"
	ExecutionsRoute = "/v1/executions/"
	FilesRoute      = "/v1/files/"
)

// Status describes the sandbox's usage, kernels and executions.
type Status struct {
	BuildID     string              `json:"build_id"` // id of the guest's bundle
	Usage       sandbox.Usage       `json:"usage"`
	Kernels     []sandbox.Kernel    `json:"kernels"`
	Executions  []sandbox.Execution `json:"executions"`           // queued and running, without events
	DroppedLate int64               `json:"dropped_late_bytes"`   // bytes of text printed while no execution ran; the next execution reports it
	DroppedBad  int64               `json:"dropped_bad_messages"` // messages of kernels that were invalid
}

// Expiry is the new time at which the guest's dead man's switch ends the sandbox, in Unix seconds.
type Expiry struct {
	ExpireUnix int64 `json:"expire_unix"`
}

// Restore describes a restore of the sandbox's memory, which the guest can't detect by itself. The daemon may send the
// same Restore more than once.
//
// The path of the route (awakening) and the JSON name of Forked (copy) are older names. They must not change, because
// guests that an older daemon started still use them.
type Restore struct {
	// Forked is true if other sandboxes start from the same memory. Each kernel then gets new random state before it runs
	// its next execution.
	Forked bool `json:"copy,omitempty"`
	// AsOfUnix is when the memory was saved, in Unix seconds, or 0 if nothing was lost since then. If something was
	// lost, the next execution of each kernel reports it, and the kernel's epoch becomes greater than EpochAbove.
	AsOfUnix   int64 `json:"as_of_unix,omitempty"`
	EpochAbove int   `json:"epoch_above,omitempty"`
}

// Preparation asks the guest to make a kernel ready for a snapshot: the guest starts the kernel, and, if the sandbox has
// enough memory, makes it import the libraries that most code imports.
type Preparation struct {
	Language sandbox.Language `json:"language"`
}

// FileList lists the files in the workspace.
type FileList struct {
	Files   []sandbox.File        `json:"files"`
	Omitted []sandbox.OmittedFile `json:"omitted,omitempty"`
}
