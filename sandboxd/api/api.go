// Package api is the v1 HTTP API: what it serves, and the Go client for it.
//
//   - [Sandboxes]: what the API offers and needs; the manager and [Client] both are one (here)
//   - [NewHandler], [Handler]: the routes, and how a request comes and goes (handler.go, routing.go, serve.go)
//   - the routes by subject: sandboxes.go, executions.go, events.go, files.go, docs.go
//   - what is read from a request: params.go, ranges.go
//   - [Client], [Dial]: the same from the other side (client*.go)
//
// Bodies are JSON in the vocabulary of package sandbox, except files, which are
// plain. The API knows nothing of engines and kernels. openapi.json describes it for
// strangers, and docs/api.md for people.
package api

import (
	"context"
	"io"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Sandboxes is what the API serves. Errors are a [sandbox.Error] where the caller can do
// something about it. All methods may be called concurrently.
type Sandboxes interface {
	Create(ctx context.Context, r sandbox.CreateRequest) (sandbox.Sandbox, error)
	// Get, like everything that takes a name, accepts an id or an unambiguous display name.
	Get(ctx context.Context, name string) (sandbox.Sandbox, error)
	List(ctx context.Context, r sandbox.ListRequest) (sandbox.Page, error)
	Update(ctx context.Context, name string, r sandbox.UpdateRequest) (sandbox.Sandbox, error)
	Delete(ctx context.Context, name string) error

	// Execute returns when the execution is final or WaitSeconds are over. An
	// execution that has begun goes on when ctx ends.
	Execute(ctx context.Context, name string, r sandbox.ExecuteRequest) (sandbox.Execution, error)
	FindExecution(ctx context.Context, requestID string) (sandbox.Execution, error)
	GetExecution(ctx context.Context, id string, waitSeconds float64, w sandbox.Window) (sandbox.Execution, error)
	// FollowExecution calls fn with each event from the number from on, in order and
	// from one goroutine, and returns when the execution is final, or fn's error.
	FollowExecution(ctx context.Context, id string, from int64, fn func(sandbox.Event) error) error
	Interrupt(ctx context.Context, id string) (sandbox.Execution, error)

	ListFiles(ctx context.Context, name string) ([]sandbox.File, []sandbox.OmittedFile, error)
	// WriteFile does not read body after it has returned.
	WriteFile(ctx context.Context, name, path string, body io.Reader) (sandbox.File, error)
	// ReadFile returns length bytes from offset on (length < 0: to the end), fewer
	// where the file ends, and the file with its whole size. The caller closes the body.
	ReadFile(ctx context.Context, name, path string, offset, length int64) (io.ReadCloser, sandbox.File, error)

	// Ready returns nil when a sandbox could be created.
	Ready(ctx context.Context) error
}

// Info says what the daemon is and what it allows.
type Info struct {
	Version   string   `json:"version"`
	Engine    string   `json:"engine"`
	EngineVer string   `json:"engine_version,omitempty"`
	Runtime   string   `json:"runtime,omitempty"`
	Isolation string   `json:"isolation,omitempty"` // in a few words, for a person
	Why       string   `json:"why,omitempty"`       // why this engine, or why none answers
	Warnings  []string `json:"warnings,omitempty"`  // what is weaker than it could be
	// Replaceable is true if a client started this daemon and its engine cannot be opened: the next client
	// stops it and starts another, because the cause may be in the settings or the environment of this one.
	Replaceable bool `json:"replaceable,omitempty"`

	Languages []sandbox.Language `json:"languages"`
	Defaults  Defaults           `json:"defaults"`
	Limits    RequestLimits      `json:"limits"`
}

// Defaults are what a sandbox gets when nobody says otherwise.
type Defaults struct {
	Image  string           `json:"image"`
	TTL    sandbox.Duration `json:"ttl"`
	Limits sandbox.Limits   `json:"limits"`
}

// RequestLimits bound what may be asked for.
type RequestLimits struct {
	Sandboxes      int              `json:"sandboxes,omitempty"` // that run at once
	TTL            sandbox.Duration `json:"ttl"`
	TimeoutSeconds int              `json:"timeout_seconds"`
	WaitSeconds    int              `json:"wait_seconds"`
	CodeBytes      int64            `json:"code_bytes"`
	FileBytes      int64            `json:"file_bytes"`
	OutputBytes    int64            `json:"output_bytes"`
}

// FixedLimits returns the limits that are the same for every daemon.
func FixedLimits() RequestLimits {
	return RequestLimits{
		TTL:            sandbox.Duration(sandbox.MaxTTL),
		TimeoutSeconds: sandbox.MaxTimeoutSeconds,
		WaitSeconds:    sandbox.MaxWaitSeconds,
		CodeBytes:      sandbox.MaxCodeBytes,
		FileBytes:      sandbox.MaxFileBytes,
		OutputBytes:    sandbox.MaxOutputBytes,
	}
}

// FileList is the answer to a list of files.
type FileList struct {
	Files   []sandbox.File        `json:"files"`
	Omitted []sandbox.OmittedFile `json:"omitted,omitempty"`
}

// Status is the answer of the health routes.
type Status struct {
	Status string `json:"status"` // ok, ready
}

// Bounds of what is read at once.
const (
	maxExecuteBody = 6*sandbox.MaxCodeBytes + 64<<10 // JSON may write a byte of code as six
	maxSmallBody   = 64 << 10
	copyBytes      = 512 << 10 // the unit in which file bodies move
)
