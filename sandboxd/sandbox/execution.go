package sandbox

import (
	"strings"
	"time"
	"unicode/utf8"
)

// ExecutionState is where an execution is.
type ExecutionState string

// The states of an execution. All after Running are final.
const (
	ExecQueued      ExecutionState = "queued"  // the kernel starts, or another execution has it
	ExecRunning     ExecutionState = "running" //
	ExecSucceeded   ExecutionState = "succeeded"
	ExecFailed      ExecutionState = "failed"      // the code raised an error
	ExecInterrupted ExecutionState = "interrupted" // somebody asked for it
	ExecTimedOut    ExecutionState = "timed_out"   // timeout_seconds was over
	ExecKernelDied  ExecutionState = "kernel_died" // Death says how
	ExecLost        ExecutionState = "lost"        // its sandbox ended, or it never began; Reason says which
)

// Final reports whether nothing more will come of the execution.
func (s ExecutionState) Final() bool { return s != ExecQueued && s != ExecRunning }

// Execution is one run of code in a sandbox. It outlives the call that started it.
type Execution struct {
	ID             ExecutionID    `json:"id"`
	SandboxID      ID             `json:"sandbox_id"`
	Language       Language       `json:"language"`
	State          ExecutionState `json:"state"`
	Reason         string         `json:"reason,omitempty"`       // a sentence, for states that need one
	KernelEpoch    int            `json:"kernel_epoch,omitempty"` // of the kernel that ran it; absent while queued
	TimeoutSeconds int            `json:"timeout_seconds"`
	CreateTime     time.Time      `json:"create_time"`
	StartTime      time.Time      `json:"start_time,omitzero"`
	EndTime        time.Time      `json:"end_time,omitzero"`

	// StoppedBy is the signal that ended an interrupted or timed-out execution:
	// SIGINT (the variables are kept), SIGTERM or SIGKILL (they are lost).
	StoppedBy string       `json:"stopped_by,omitempty"`
	Error     *CodeError   `json:"error,omitempty"` // the code's own exception
	Death     *KernelDeath `json:"death,omitempty"`

	// Interlude is what happened to its kernel since the execution before, if anything did.
	Interlude *Interlude `json:"interlude,omitempty"`

	// Files that were created or changed in the workspace while it ran.
	Files        []File        `json:"files,omitempty"`
	FilesOmitted []OmittedFile `json:"files_omitted,omitempty"`

	// OutputBytes is how much text the code has printed so far, kept or not.
	OutputBytes int64 `json:"output_bytes"`
	// Events are the part of the output that the request's [Window] asked for.
	Events []Event `json:"events,omitempty"`
	// NextOffset is where the next window begins.
	NextOffset int64 `json:"next_offset"`
	// OutputGone says that the output was dropped to make room for newer executions'.
	OutputGone bool `json:"output_gone,omitempty"`
}

// CodeError is an exception that the code raised.
type CodeError struct {
	Name      string `json:"name"`
	Message   string `json:"message"`
	Traceback string `json:"traceback,omitempty"` // plain text; only the code's own frames
}

// DeathCause says how a kernel ended.
type DeathCause string

// How a kernel can end.
const (
	DiedExit        DeathCause = "exit"          // it called exit: ExitCode
	DiedSignal      DeathCause = "signal"        // a signal: Signal
	DiedOutOfMemory DeathCause = "out_of_memory" // the memory limit
	DiedStopped     DeathCause = "stopped"       // an interrupt or a timeout had to go as far as SIGTERM or SIGKILL
	DiedStart       DeathCause = "start"         // it did not start: Detail
)

// KernelDeath is how and when a kernel ended.
type KernelDeath struct {
	Cause    DeathCause `json:"cause"`
	ExitCode int        `json:"exit_code,omitempty"`
	Signal   string     `json:"signal,omitempty"` // such as SIGSEGV
	Detail   string     `json:"detail,omitempty"` // a sentence
	Time     time.Time  `json:"time"`
}

// Interlude is what happened to a kernel between two executions. The second one carries it, because nobody
// listens in between.
type Interlude struct {
	// LateBytes were printed by a thread, a timer or a child process; LateText is the end of them.
	// They are no execution's output, least of all that of the one which carries them.
	LateBytes int64  `json:"late_bytes,omitempty"`
	LateText  string `json:"late_text,omitempty"`
	// AsOf is set if the sandbox was lost and brought back: variables and files are as they were then, and what
	// came after is lost.
	AsOf time.Time `json:"as_of_time,omitzero"`
	// Death is set if the kernel died, and its variables with it.
	Death *KernelDeath `json:"death,omitempty"`
}

// MaxLateText bounds what is kept of text that no execution printed.
const MaxLateText = 2000

// EventType says what an event carries.
type EventType string

// The types of events.
const (
	EventStdout  EventType = "stdout"  // Text
	EventStderr  EventType = "stderr"  // Text
	EventDisplay EventType = "display" // Data
	EventResult  EventType = "result"  // Data: the last expression's value
	EventError   EventType = "error"   // the execution's Error is set
	EventOmitted EventType = "omitted" // Bytes of text are not here; Reason says why
	EventStatus  EventType = "status"  // State
	EventFile    EventType = "file"    // File: created or changed by the execution
)

// Event is something that an execution did. Events are numbered from 1.
type Event struct {
	Seq    int64     `json:"seq"`
	Type   EventType `json:"type"`
	Time   time.Time `json:"time,omitzero"`
	Offset int64     `json:"offset"` // bytes of text printed before this event
	Text   string    `json:"text,omitempty"`
	// Data maps MIME types to values: base64 for pictures, text for the rest.
	Data   map[string]string `json:"data,omitempty"`
	Bytes  int64             `json:"bytes,omitempty"`
	Reason OmitReason        `json:"reason,omitempty"`
	State  ExecutionState    `json:"state,omitempty"`
	File   *File             `json:"file,omitempty"`
}

// OmitReason says why text is missing.
type OmitReason string

// Why text can be missing.
const (
	OmittedByWindow OmitReason = "window" // it is kept: ask with Offset
	OmittedByLimit  OmitReason = "limit"  // it was over MaxOutputBytes and is gone
)

// Window is the part of an execution's text that an answer carries: from Offset,
// the first Head and the last Tail bytes (cut at characters), with one omitted event
// between. Both zero: everything kept. Displays, results and errors that come at or after
// Offset are always there.
type Window struct {
	Offset int64 `json:"offset,omitempty"`
	Head   int   `json:"head,omitempty"`
	Tail   int   `json:"tail,omitempty"`
}

// MaxOffset bounds a [Window]'s offset; no output is that long.
const MaxOffset = 1 << 52

// NoOutput is the window of one who only wants to know how an execution ends.
var NoOutput = Window{Offset: MaxOffset, Head: 1}

// ExecuteRequest asks for a run of code.
type ExecuteRequest struct {
	Code           string   `json:"code"`
	Language       Language `json:"language,omitempty"`
	TimeoutSeconds *int     `json:"timeout_seconds,omitempty"`
	// RequestID makes a retry return the first execution.
	RequestID string `json:"request_id,omitempty"`
	// WaitSeconds is how long the answer may wait for the end. 0: not at all.
	WaitSeconds float64 `json:"wait_seconds,omitempty"`
	Window
}

// Times of an execution, in seconds.
const (
	DefaultTimeoutSeconds = 600
	MaxTimeoutSeconds     = 86400
	DefaultWaitSeconds    = 45
	MaxWaitSeconds        = 300
)

// Validate checks the request and fills in its language (if lang is not empty) and timeout.
func (r *ExecuteRequest) Validate(lang Language) error {
	parsed, err := ParseLanguage(string(r.Language))
	if err != nil {
		return err
	}
	if r.Language = parsed; parsed == "" {
		r.Language = lang
	}
	switch {
	case strings.TrimSpace(r.Code) == "":
		return Errorf(Invalid, "code is empty: there is nothing to run")
	case len(r.Code) > MaxCodeBytes:
		return Errorf(Invalid, "code is %d bytes, the limit is %d: write it to a file with write_files and run that", len(r.Code), MaxCodeBytes)
	case !utf8.ValidString(r.Code):
		return Errorf(Invalid, "code is not valid UTF-8")
	case strings.ContainsRune(r.Code, 0):
		return Errorf(Invalid, "code has a NUL byte at byte %d", strings.IndexByte(r.Code, 0))
	}
	if r.TimeoutSeconds == nil {
		r.TimeoutSeconds = new(DefaultTimeoutSeconds)
	}
	if t := *r.TimeoutSeconds; t < 1 || t > MaxTimeoutSeconds {
		return Errorf(Invalid, "timeout_seconds %d is out of range: use 1 to %d", t, MaxTimeoutSeconds)
	}
	if err := ValidateWait(r.WaitSeconds); err != nil {
		return err
	}
	return ValidateRequestID(r.RequestID)
}

// ValidateWait accepts 0 to 300 seconds.
func ValidateWait(s float64) error {
	if !(s >= 0 && s <= MaxWaitSeconds) {
		return Errorf(Invalid, "wait_seconds %g is out of range: use 0 to %d", s, MaxWaitSeconds)
	}
	return nil
}
