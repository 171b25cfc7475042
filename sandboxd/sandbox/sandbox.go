// Package sandbox defines the types that all parts of Dormouse share: ids, states, limits, executions, events, files
// and kinds of errors. The REST API and the guest's protocol use the JSON form of these types. Input is parsed and
// validated once, by the Parse functions and Validate methods, when it enters the program; all other code relies on
// valid values. The package does no I/O and imports no other package of Dormouse.
//
//   - [Sandbox], [CreateRequest], [UpdateRequest], [ListRequest]: a sandbox, and requests about sandboxes (sandbox.go)
//   - [Limits]: the resources that a sandbox may use, and the limits of requests (limits.go)
//   - [Execution], [Event], [Window]: one run of code, and its output (execution.go)
//   - [File], [Path], [ParsePath]: files in /workspace (file.go)
//   - [ID], [ExecutionID]: ids that cannot be guessed (id.go)
//   - [Owner]: the user that a request or a sandbox belongs to (owner.go)
//   - [Duration]: a duration as clients write it (duration.go)
//   - [Error], [Kind]: errors whose text clients may see (error.go)
package sandbox

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// State is the state of a sandbox.
type State string

// The states of a sandbox. A running or suspended sandbox can be used. A terminated sandbox has a Reason. Clients can
// still read its record, until the record is deleted.
const (
	Provisioning State = "provisioning"
	Running      State = "running"
	Suspended    State = "suspended"
	Terminated   State = "terminated"
)

// ParseState returns the state with the name s, in any case. Its error is of kind invalid.
func ParseState(s string) (State, error) {
	switch st := State(strings.ToLower(strings.TrimSpace(s))); st {
	case Provisioning, Running, Suspended, Terminated:
		return st, nil
	}
	return "", Errorf(Invalid, "%q is not a state: use provisioning, running, suspended or terminated", Quote(s))
}

// Language is a programming language that a kernel runs.
type Language string

// The languages that have a kernel.
const (
	Python     Language = "python"
	JavaScript Language = "javascript"
)

// Languages lists the languages that have a kernel.
var Languages = []Language{Python, JavaScript}

// ParseLanguage returns the language that s names; it accepts common short forms such as "py". For an empty s it
// returns the empty language, and the caller uses its default. Its error is of kind invalid.
func ParseLanguage(s string) (Language, error) {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "":
		return "", nil
	case "python", "python3", "py":
		return Python, nil
	case "javascript", "js", "node", "nodejs":
		return JavaScript, nil
	}
	return "", Errorf(Invalid, "language %q has no kernel here: use %s (shell commands run through Python's !command)", Quote(s), languageNames())
}

// languageNames returns the names of Languages for a sentence, for example "python or javascript".
func languageNames() string {
	text := string(Languages[0])
	for i, l := range Languages[1:] {
		separator := ", "
		if i+2 == len(Languages) {
			separator = " or "
		}
		text += separator + string(l)
	}
	return text
}

// The default and the limits of a sandbox's TTL.
const (
	DefaultTTL = 24 * time.Hour
	MaxTTL     = 14 * 24 * time.Hour
	MinTTL     = time.Second
)

// Sandbox describes a sandbox to a client.
type Sandbox struct {
	ID          ID        `json:"id"`
	DisplayName string    `json:"display_name,omitempty"`
	State       State     `json:"state"`
	Reason      string    `json:"reason,omitempty"` // a sentence that says why the sandbox is terminated
	Language    Language  `json:"language"`         // the language of executions whose request names none
	Image       string    `json:"image"`
	Engine      string    `json:"engine"`  // such as docker or gvisor
	Runtime     string    `json:"runtime"` // such as runc or runsc
	Limits      Limits    `json:"limits"`
	ForkOf      ID        `json:"fork_of,omitempty"` // the original of a fork, which may be deleted by now
	CreateTime  time.Time `json:"create_time"`
	ExpireTime  time.Time `json:"expire_time"`
	LastUsed    time.Time `json:"last_used_time"`

	// SuspendedTo is how a suspended sandbox keeps its memory: "disk" (written to disk) or "pause" (still in memory,
	// with its processes frozen).
	SuspendedTo string `json:"suspended_to,omitempty"`
	// SavedTime is the time of a running sandbox's last checkpoint, from which it is restored if its machine stops.
	SavedTime time.Time `json:"saved_time,omitzero"`
	// RewoundTo is set if the sandbox's processes died and it was restored from a checkpoint. It is the time of that
	// checkpoint: changes to variables and files between RewoundTo and the restore are lost.
	RewoundTo time.Time `json:"rewound_to,omitzero"`

	// The fields below come from the guest. They are absent in lists, and if the sandbox is not running or its guest
	// does not answer.
	Usage      *Usage      `json:"usage,omitempty"`
	Kernels    []Kernel    `json:"kernels,omitempty"`
	Executions []Execution `json:"executions,omitempty"` // the queued and running executions, without events
}

// Usage is the current resource usage of a sandbox.
type Usage struct {
	MemoryBytes    int64   `json:"memory_bytes"`
	CPUSeconds     float64 `json:"cpu_seconds"`
	Processes      int     `json:"processes"`
	WorkspaceBytes int64   `json:"workspace_bytes"`
}

// KernelState is the state of a kernel.
type KernelState string

// The states of a kernel.
const (
	KernelStarting KernelState = "starting"
	KernelIdle     KernelState = "idle"
	KernelBusy     KernelState = "busy"
	KernelStopped  KernelState = "stopped" // the next execution starts the kernel again
)

// Kernel is a long-lived interpreter in a sandbox, one for each language. It holds the variables.
type Kernel struct {
	Language    Language     `json:"language"`
	State       KernelState  `json:"state"`
	Epoch       int          `json:"kernel_epoch"` // increases when, and only when, the variables are lost
	Version     string       `json:"version,omitempty"`
	Runner      string       `json:"runner,omitempty"` // such as "IPython 8.35.0"
	MemoryBytes int64        `json:"memory_bytes,omitempty"`
	LastDeath   *KernelDeath `json:"last_death,omitempty"`
}

// CreateRequest is a request to create a sandbox. The daemon's defaults replace fields that are zero.
type CreateRequest struct {
	DisplayName string   `json:"display_name,omitempty"`
	Language    Language `json:"language,omitempty"`
	TTL         Duration `json:"ttl,omitempty"`
	MemoryMB    int      `json:"memory_mb,omitempty"`
	CPUs        float64  `json:"cpus,omitempty"`
	Image       string   `json:"image,omitempty"`
	// ForkOf is the id or display name of a sandbox to fork, with its variables and files. If it is set, Language,
	// MemoryMB, CPUs and Image must be zero, because the fork takes them from the original sandbox.
	ForkOf string `json:"fork_of,omitempty"`
	// RequestID identifies the request if it is not empty: a retry with the same RequestID returns the sandbox that the
	// first request created.
	RequestID string `json:"request_id,omitempty"`
}

// Validate makes all checks that need neither the daemon's configuration and records nor the host's CPUs and memory. It
// replaces a short form of the language by its name. Its errors are of kind invalid.
func (r *CreateRequest) Validate() error {
	if err := ValidateDisplayName(r.DisplayName); err != nil {
		return err
	}
	lang, err := ParseLanguage(string(r.Language))
	if err != nil {
		return err
	}
	r.Language = lang
	if r.ForkOf != "" && (r.Language != "" || r.MemoryMB != 0 || r.CPUs != 0 || r.Image != "") {
		return Errorf(Invalid, "a fork has the language, memory_mb, cpus and image of its original: leave them out if fork_of is set")
	}
	if r.TTL != 0 {
		if err := ValidateTTL(time.Duration(r.TTL)); err != nil {
			return err
		}
	}
	return ValidateRequestID(r.RequestID)
}

// UpdateRequest is a request to change a sandbox. Fields that are nil leave it unchanged. A new TTL starts when the
// daemon handles the request.
type UpdateRequest struct {
	TTL         *Duration `json:"ttl,omitempty"`
	DisplayName *string   `json:"display_name,omitempty"`
}

// Validate checks both fields. At least one must be set. Its errors are of kind invalid.
func (r *UpdateRequest) Validate() error {
	if r.TTL == nil && r.DisplayName == nil {
		return Errorf(Invalid, "nothing to change: give ttl, display_name or both")
	}
	if r.DisplayName != nil {
		if err := ValidateDisplayName(*r.DisplayName); err != nil {
			return err
		}
	}
	if r.TTL != nil {
		return ValidateTTL(time.Duration(*r.TTL))
	}
	return nil
}

// ListRequest is a request for one page of the list of sandboxes, newest first.
type ListRequest struct {
	State     State  // empty: all states except terminated
	PageSize  int    // at most MaxPageSize; 0: DefaultPageSize
	PageToken string // the NextPageToken of the previous page; empty: the first page
}

// The default and the limit of a list's page size.
const (
	DefaultPageSize = 20
	MaxPageSize     = 100
)

// Page is one page of a list.
type Page struct {
	Sandboxes     []Sandbox `json:"sandboxes"`
	NextPageToken string    `json:"next_page_token,omitempty"`
}

// ValidateTTL returns an error of kind invalid unless d is between [MinTTL] and [MaxTTL].
func ValidateTTL(d time.Duration) error {
	if d < MinTTL || d > MaxTTL {
		return Errorf(Invalid, "ttl %s is out of range: use 1s to 14 days (336h)", d)
	}
	return nil
}

// MaxDisplayName is the longest display name, in characters.
const MaxDisplayName = 100

// ValidateDisplayName returns an error of kind invalid unless s has at most [MaxDisplayName] printable characters, does
// not begin like an id, and neither begins nor ends with a space. An empty s is valid.
func ValidateDisplayName(s string) error {
	if !utf8.ValidString(s) || utf8.RuneCountInString(s) > MaxDisplayName {
		return Errorf(Invalid, "display_name must be valid UTF-8 and at most %d characters", MaxDisplayName)
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return Errorf(Invalid, "display_name %q has a character that is not printable", Quote(s))
		}
	}
	if strings.HasPrefix(s, idPrefix) {
		return Errorf(Invalid, "display_name must not begin with %q, which is how ids begin", idPrefix)
	}
	if s != strings.TrimSpace(s) {
		return Errorf(Invalid, "display_name must not begin or end with a space")
	}
	return nil
}

// MaxRequestID is the longest request_id, in bytes.
const MaxRequestID = 200

// ValidateRequestID returns an error of kind invalid unless s is printable ASCII of at most [MaxRequestID] bytes. An
// empty s is valid.
func ValidateRequestID(s string) error {
	if len(s) > MaxRequestID {
		return Errorf(Invalid, "request_id has %d bytes, the limit is %d", len(s), MaxRequestID)
	}
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return Errorf(Invalid, "request_id must be printable ASCII")
		}
	}
	return nil
}

// Quote returns s for use with %q in a message. It shortens a long s, because s can come from an untrusted client.
func Quote(s string) string {
	const maximum = 80
	if len(s) > maximum {
		return fmt.Sprintf("%s… (%d bytes)", strings.ToValidUTF8(s[:maximum], "�"), len(s))
	}
	return s
}
