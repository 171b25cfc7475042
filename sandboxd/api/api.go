// Package api contains the handler of the v1 HTTP API and a Go client for it. The daemon serves the handler on its socket,
// and package server serves it below /v1/. The commands use the client, also for the MCP tools of `dormouse mcp`.
//
//   - [Sandboxes]: the interface that the API exposes, implemented by the manager and by [Client] (api.go)
//   - [Handler], [NewHandler]: the routes and the processing of a request (handler.go, routing.go, serve.go)
//   - the handlers of the routes: sandboxes.go, executions.go, events.go, files.go, docs.go
//   - reading parameters, the Range header and bodies: params.go, ranges.go, body.go
//   - [Client], [Dial], [DialBy]: the Go client (client*.go)
//
// Bodies are the JSON encoding of the types of package sandbox; the bodies of files are plain bytes. The package does not
// use engines or kernels. openapi.json describes the API for programs, and docs/api.md describes it for people.
package api

import (
	"context"
	"io"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Sandboxes is the interface that the API exposes. An error that the caller can do something about is a [sandbox.Error].
// All methods may be called concurrently. The callers (the handler and, in `dormouse serve`, the MCP tools) validate all
// arguments first. The implementation checks only names, ids, page tokens, images, and memory and CPUs, which need its
// records or its configuration.
type Sandboxes interface {
	Create(ctx context.Context, r sandbox.CreateRequest) (sandbox.Sandbox, error)
	// Get returns a sandbox. A name is, here and in the other methods, a sandbox id or an unambiguous display name.
	Get(ctx context.Context, name string) (sandbox.Sandbox, error)
	List(ctx context.Context, r sandbox.ListRequest) (sandbox.Page, error)
	Update(ctx context.Context, name string, r sandbox.UpdateRequest) (sandbox.Sandbox, error)
	Delete(ctx context.Context, name string) error

	// Execute starts an execution and returns when it is final or WaitSeconds have passed. If ctx ends, an execution that
	// has begun continues.
	Execute(ctx context.Context, name string, r sandbox.ExecuteRequest) (sandbox.Execution, error)
	FindExecution(ctx context.Context, requestID string) (sandbox.Execution, error)
	// GetExecution does not wait if waitSeconds is 0. If it is negative, the manager does not wait either, and [Client]
	// returns the daemon's error.
	GetExecution(ctx context.Context, id string, waitSeconds float64, w sandbox.Window) (sandbox.Execution, error)
	// FollowExecution calls fn with each event whose number is at least from, in order and from one goroutine. It returns
	// nil when the execution is final, or the error of fn.
	FollowExecution(ctx context.Context, id string, from int64, fn func(sandbox.Event) error) error
	Interrupt(ctx context.Context, id string) (sandbox.Execution, error)

	ListFiles(ctx context.Context, name string) ([]sandbox.File, []sandbox.OmittedFile, error)
	// WriteFile creates or replaces a file. If reading body fails, it returns that error. It does not read body after it has
	// returned.
	WriteFile(ctx context.Context, name string, path sandbox.Path, body io.Reader) (sandbox.File, error)
	// ReadFile returns length bytes of a file from offset on, or fewer if the file ends before. A negative length means up
	// to the end. The returned File has the size of the whole file. The caller must close the body.
	ReadFile(ctx context.Context, name string, path sandbox.Path, offset, length int64) (io.ReadCloser, sandbox.File, error)

	// Ready returns nil if a sandbox could be created.
	Ready(ctx context.Context) error
}

// Info describes the daemon, its engine, and its defaults and limits.
type Info struct {
	Version   string   `json:"version"`
	Engine    string   `json:"engine"`
	EngineVer string   `json:"engine_version,omitempty"`
	Runtime   string   `json:"runtime,omitempty"`
	Isolation string   `json:"isolation,omitempty"` // a short description for a person
	Why       string   `json:"why,omitempty"`       // why this engine was chosen, or why no engine answers
	Warnings  []string `json:"warnings,omitempty"`  // ways in which the isolation or the limits are weaker than they could be
	// Replaceable is true if a client started this daemon and its engine cannot be opened. The next client stops this daemon
	// and starts another, because the cause may be in this daemon's settings or environment.
	Replaceable bool `json:"replaceable,omitempty"`

	Languages []sandbox.Language `json:"languages"`
	Defaults  Defaults           `json:"defaults"`
	Limits    RequestLimits      `json:"limits"`
}

// Defaults are the properties of a sandbox whose request does not specify them.
type Defaults struct {
	Image  string           `json:"image"`
	TTL    sandbox.Duration `json:"ttl"`
	Limits sandbox.Limits   `json:"limits"`
}

// RequestLimits are the limits of requests.
type RequestLimits struct {
	Sandboxes      int              `json:"sandboxes,omitempty"` // the maximum number of running sandboxes
	TTL            sandbox.Duration `json:"ttl"`
	TimeoutSeconds int              `json:"timeout_seconds"`
	WaitSeconds    int              `json:"wait_seconds"`
	CodeBytes      int64            `json:"code_bytes"`
	FileBytes      int64            `json:"file_bytes"`
	OutputBytes    int64            `json:"output_bytes"`
}

// FixedLimits returns the limits that are the same for every daemon. The field Sandboxes, which depends on the daemon's
// configuration, is zero.
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

// FileList is the answer to a request for a sandbox's list of files.
type FileList struct {
	Files   []sandbox.File        `json:"files"`
	Omitted []sandbox.OmittedFile `json:"omitted,omitempty"`
}

// Status is the answer of /healthz and /readyz.
type Status struct {
	Status string `json:"status"` // "ok" or "ready"
}

// Sizes of bodies and buffers, in bytes.
const (
	maxExecuteBody = 6*sandbox.MaxCodeBytes + 64<<10 // in JSON, one byte of code can become six bytes, such as \u0000
	maxSmallBody   = 64 << 10
	copyBytes      = 512 << 10 // the buffer for copying the bodies of files
)
