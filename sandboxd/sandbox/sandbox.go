// Package sandbox is Dormouse's vocabulary: ids, states, limits, executions,
// events, files and error kinds. Values are parsed once at the edge (Parse…,
// …Validate) and are valid ever after. It does no I/O and knows nothing else of
// ours; its JSON form is what the REST API and the guest speak.
//
//   - [Sandbox], [CreateRequest], [UpdateRequest], [ListRequest]: a sandbox and its life (sandbox.go)
//   - [Limits]: what a sandbox may use (limits.go)
//   - [Execution], [Event], [Window]: one run of code and what it printed (execution.go)
//   - [File], [ParsePath]: files in /workspace (file.go)
//   - [ID], [ExecutionID]: names that cannot be guessed (id.go)
//   - [Error], [Kind]: what went wrong, for whom (error.go)
package sandbox

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// State is where a sandbox is in its life.
type State string

// The states of a sandbox. Running and suspended are usable; a terminated sandbox
// carries a reason and can only be looked at until its record is dropped.
const (
	Provisioning State = "provisioning"
	Running      State = "running"
	Suspended    State = "suspended"
	Terminated   State = "terminated"
)

// ParseState accepts the name of a state.
func ParseState(s string) (State, error) {
	switch st := State(strings.ToLower(strings.TrimSpace(s))); st {
	case Provisioning, Running, Suspended, Terminated:
		return st, nil
	}
	return "", Errorf(Invalid, "%q is not a state: use provisioning, running, suspended or terminated", Quote(s))
}

// Language names a kernel.
type Language string

// The languages that have a kernel.
const (
	Python     Language = "python"
	JavaScript Language = "javascript"
)

// ParseLanguage accepts a language's name and its common short forms. The empty
// string is the empty language: the caller's default.
func ParseLanguage(s string) (Language, error) {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "":
		return "", nil
	case "python", "python3", "py":
		return Python, nil
	case "javascript", "js", "node", "nodejs":
		return JavaScript, nil
	}
	return "", Errorf(Invalid, "language %q has no kernel here: use python or javascript (shell commands run through Python's !command)", Quote(s))
}

// Time to live of a sandbox.
const (
	DefaultTTL = 24 * time.Hour
	MaxTTL     = 14 * 24 * time.Hour
	MinTTL     = time.Second
)

// Sandbox is what a client sees of a sandbox.
type Sandbox struct {
	ID          ID        `json:"id"`
	DisplayName string    `json:"display_name,omitempty"`
	State       State     `json:"state"`
	Reason      string    `json:"reason,omitempty"` // why it is terminated, in a sentence
	Language    Language  `json:"language"`         // the kernel that code runs in when none is named
	Image       string    `json:"image"`
	Engine      string    `json:"engine"`  // docker
	Runtime     string    `json:"runtime"` // runc, runsc
	Limits      Limits    `json:"limits"`
	ForkOf      ID        `json:"fork_of,omitempty"` // the sandbox that it is a copy of, which may be gone
	CreateTime  time.Time `json:"create_time"`
	ExpireTime  time.Time `json:"expire_time"`
	LastUsed    time.Time `json:"last_used_time"`

	// SuspendedTo is where the memory of a suspended one is: disk, or pause (frozen, and in memory still).
	SuspendedTo string `json:"suspended_to,omitempty"`
	// SavedTime is when the state of a running one was last saved, for the case that its machine stops.
	SavedTime time.Time `json:"saved_time,omitzero"`
	// RewoundTo is the time of the saved state that it went back to when its processes had died: variables
	// and files are as of then, but for what was done since. Absent: that never happened.
	RewoundTo time.Time `json:"rewound_to,omitzero"`

	// What follows is asked of the guest, and absent from lists and from
	// sandboxes that do not run.
	Usage      *Usage      `json:"usage,omitempty"`
	Kernels    []Kernel    `json:"kernels,omitempty"`
	Executions []Execution `json:"executions,omitempty"` // queued and running ones, without events
}

// Usage is what a sandbox uses now.
type Usage struct {
	MemoryBytes    int64   `json:"memory_bytes"`
	CPUSeconds     float64 `json:"cpu_seconds"`
	Processes      int     `json:"processes"`
	WorkspaceBytes int64   `json:"workspace_bytes"`
}

// KernelState is what a kernel is doing.
type KernelState string

// The states of a kernel.
const (
	KernelStarting KernelState = "starting"
	KernelIdle     KernelState = "idle"
	KernelBusy     KernelState = "busy"
	KernelStopped  KernelState = "stopped" // starts again with the next execution
)

// Kernel is a long-lived interpreter in a sandbox; it holds the variables.
type Kernel struct {
	Language    Language     `json:"language"`
	State       KernelState  `json:"state"`
	Epoch       int          `json:"kernel_epoch"` // grows when, and only when, the variables were lost
	Version     string       `json:"version,omitempty"`
	Runner      string       `json:"runner,omitempty"` // such as "IPython 8.35.0"
	MemoryBytes int64        `json:"memory_bytes,omitempty"`
	LastDeath   *KernelDeath `json:"last_death,omitempty"`
}

// CreateRequest asks for a new sandbox. Zero values take the daemon's defaults.
type CreateRequest struct {
	DisplayName string   `json:"display_name,omitempty"`
	Language    Language `json:"language,omitempty"`
	TTL         Duration `json:"ttl,omitempty"`
	MemoryMB    int      `json:"memory_mb,omitempty"`
	CPUs        float64  `json:"cpus,omitempty"`
	Image       string   `json:"image,omitempty"`
	// ForkOf is the id or display name of a sandbox to copy, with its variables and files. What is
	// above but the name and the TTL is the original's then, and must be left out.
	ForkOf string `json:"fork_of,omitempty"`
	// RequestID makes a retry return the sandbox that the first request made.
	RequestID string `json:"request_id,omitempty"`
}

// Validate checks what can be checked without the daemon's configuration.
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
		return Errorf(Invalid, "a fork has its original's language, memory_mb, cpus and image: leave them out beside fork_of")
	}
	if r.TTL != 0 {
		if err := ValidateTTL(time.Duration(r.TTL)); err != nil {
			return err
		}
	}
	return ValidateRequestID(r.RequestID)
}

// UpdateRequest changes a sandbox. A TTL counts from now.
type UpdateRequest struct {
	TTL         *Duration `json:"ttl,omitempty"`
	DisplayName *string   `json:"display_name,omitempty"`
}

// Validate checks both fields.
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

// ListRequest selects sandboxes, newest first.
type ListRequest struct {
	State     State  // empty: all but terminated
	PageSize  int    // 0: 20; at most 100
	PageToken string // from the page before
}

// List page sizes.
const (
	DefaultPageSize = 20
	MaxPageSize     = 100
)

// Page is one page of a list.
type Page struct {
	Sandboxes     []Sandbox `json:"sandboxes"`
	NextPageToken string    `json:"next_page_token,omitempty"`
}

// ValidateTTL accepts a second to 14 days.
func ValidateTTL(d time.Duration) error {
	if d < MinTTL || d > MaxTTL {
		return Errorf(Invalid, "ttl %s is out of range: a sandbox lives between 1s and 14 days (336h)", d)
	}
	return nil
}

// MaxDisplayName is the longest display name, in characters.
const MaxDisplayName = 100

// ValidateDisplayName accepts at most 100 printable characters that could not be
// taken for an id.
func ValidateDisplayName(s string) error {
	if !utf8.ValidString(s) || utf8.RuneCountInString(s) > MaxDisplayName {
		return Errorf(Invalid, "display_name must be valid UTF-8 and at most %d characters", MaxDisplayName)
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return Errorf(Invalid, "display_name %q has a character that cannot be shown", Quote(s))
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

// ValidateRequestID accepts up to 200 bytes of printable ASCII.
func ValidateRequestID(s string) error {
	if len(s) > MaxRequestID {
		return Errorf(Invalid, "request_id is %d bytes, the limit is %d", len(s), MaxRequestID)
	}
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return Errorf(Invalid, "request_id must be printable ASCII")
		}
	}
	return nil
}

// Quote cuts a hostile string short, for use with %q in a message.
func Quote(s string) string {
	const most = 80
	if len(s) > most {
		return fmt.Sprintf("%s… (%d bytes)", strings.ToValidUTF8(s[:most], "�"), len(s))
	}
	return s
}
