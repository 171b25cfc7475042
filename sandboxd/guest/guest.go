// Package guest is the protocol between the daemon and the guest, the supervisor
// that is PID 1 in a sandbox: the routes, and the [Client] that the manager uses. The guest
// itself is in supervisor, the kernels in kernels, and bundle is all of it as it is
// injected into containers.
//
// The protocol is HTTP/2 without TLS (net/http's own) over one byte stream,
// whose ends `guest connect` hands to the guest through its socket. Bodies are JSON in the vocabulary of
// package sandbox, except files, which are plain. Errors are a [sandbox.Error] as
// JSON with the status of its kind. docs/guest-protocol.md has the details.
package guest

import "github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"

// SocketPath is the guest's socket inside the container. Only uid 0 can reach it.
const SocketPath = "/run/dormouse/guest.sock"

// Routes of the guest.
//
//	GET  /v1/status                                  Status
//	PUT  /v1/expiry                                  Expiry → nothing
//	POST /v1/awakening                               Awakening → nothing
//	POST /v1/preparation                             Preparation → nothing, when that kernel is ready
//	PUT  /v1/executions/{id}?wait=SECONDS            sandbox.ExecuteRequest → sandbox.Execution; the second PUT of an id returns the first's
//	GET  /v1/executions/{id}?wait=&offset=&head=&tail=   sandbox.Execution with the window's events
//	GET  /v1/executions/{id}/events?from=SEQ         one sandbox.Event a line, from SEQ on, until the execution is final
//	POST /v1/executions/{id}/interrupt               sandbox.Execution when it has stopped
//	GET  /v1/files                                   FileList
//	PUT  /v1/files/{path...}                         a plain body → sandbox.File without its hash
//	GET  /v1/files/{path...}?offset=&length=        a plain body: length bytes from offset on; X-Dormouse-Size has the whole size
const (
	StatusRoute     = "/v1/status"
	ExpiryRoute     = "/v1/expiry"
	AwakeningRoute  = "/v1/awakening"
	PrepareRoute    = "/v1/preparation"
	ExecutionsRoute = "/v1/executions/"
	FilesRoute      = "/v1/files/"
)

// Status is what the guest knows of its sandbox.
type Status struct {
	BuildID     string              `json:"build_id"` // of the guest's bundle
	Usage       sandbox.Usage       `json:"usage"`
	Kernels     []sandbox.Kernel    `json:"kernels"`
	Executions  []sandbox.Execution `json:"executions"`           // queued and running, without events
	DroppedLate int64               `json:"dropped_late_bytes"`   // of text that came when nothing ran; the next execution tells of it
	DroppedBad  int64               `json:"dropped_bad_messages"` // of kernels' messages that made no sense
}

// Expiry moves the guest's dead man's switch, in Unix seconds.
type Expiry struct {
	ExpireUnix int64 `json:"expire_unix"`
}

// Awakening tells a guest what it can't notice: that its memory was saved, and is restored. To be told
// twice does no harm.
type Awakening struct {
	// Copy: others woke from the same memory. Each kernel gets new random state before it runs anything.
	Copy bool `json:"copy,omitempty"`
	// AsOfUnix is when the memory was saved, in Unix seconds, if what came after it is lost. Each kernel's next
	// execution says so, and its epoch grows above EpochAbove.
	AsOfUnix   int64 `json:"as_of_unix,omitempty"`
	EpochAbove int   `json:"epoch_above,omitempty"`
}

// Preparation has a guest make a kernel ready for a snapshot: started, and with what most code imports imported already.
type Preparation struct {
	Language sandbox.Language `json:"language"`
}

// FileList is what is in the workspace.
type FileList struct {
	Files   []sandbox.File        `json:"files"`
	Omitted []sandbox.OmittedFile `json:"omitted,omitempty"`
}
