package sandbox

import (
	"strings"
	"time"
	"unicode/utf8"
)

// ExecutionState is the state of an execution.
type ExecutionState string

// The states of an execution. All except queued and running are final.
const (
	ExecQueued      ExecutionState = "queued" // waits until the kernel has started or an earlier execution has ended
	ExecRunning     ExecutionState = "running"
	ExecSucceeded   ExecutionState = "succeeded"
	ExecFailed      ExecutionState = "failed"      // the code raised an error
	ExecInterrupted ExecutionState = "interrupted" // a client interrupted the execution
	ExecTimedOut    ExecutionState = "timed_out"   // the code ran longer than TimeoutSeconds
	ExecKernelDied  ExecutionState = "kernel_died" // the kernel died during the execution; Death has the cause
	ExecLost        ExecutionState = "lost"        // the sandbox was terminated or rewound, or the code never started; see Reason
)

// Final reports whether an execution in this state has ended.
func (s ExecutionState) Final() bool { return s != ExecQueued && s != ExecRunning }

// Execution is one run of code in a sandbox. It continues when the call that started it ends.
type Execution struct {
	ID             ExecutionID    `json:"id"`
	SandboxID      ID             `json:"sandbox_id"`
	Language       Language       `json:"language"`
	State          ExecutionState `json:"state"`
	Reason         string         `json:"reason,omitempty"`       // a sentence that explains the state; empty: none is needed
	KernelEpoch    int            `json:"kernel_epoch,omitempty"` // the epoch of the kernel that ran the code; absent while queued
	TimeoutSeconds int            `json:"timeout_seconds"`
	CreateTime     time.Time      `json:"create_time"`
	StartTime      time.Time      `json:"start_time,omitzero"`
	EndTime        time.Time      `json:"end_time,omitzero"`

	// StoppedBy is the signal that ended an interrupted or timed-out execution:
	// SIGINT (the variables are kept), SIGTERM or SIGKILL (they are lost).
	StoppedBy string       `json:"stopped_by,omitempty"`
	Error     *CodeError   `json:"error,omitempty"` // the code's own exception
	Death     *KernelDeath `json:"death,omitempty"`

	// Interlude reports what happened to the kernel since the previous execution. It is nil if nothing happened.
	Interlude *Interlude `json:"interlude,omitempty"`

	// Files are the files in the workspace that were created or changed during the execution.
	Files        []File        `json:"files,omitempty"`
	FilesOmitted []OmittedFile `json:"files_omitted,omitempty"` // changed files that Files leaves out

	// OutputBytes is the number of bytes of text that the code has printed so far, including text that was not stored.
	OutputBytes int64 `json:"output_bytes"`
	// Events is the part of the output that the request's [Window] selects.
	Events []Event `json:"events,omitempty"`
	// NextOffset is the Offset of the window that continues after this one.
	NextOffset int64 `json:"next_offset"`
	// OutputGone is true if the output was deleted: to free space for newer executions, or with its sandbox.
	OutputGone bool `json:"output_gone,omitempty"`
}

// CodeError is an exception that the code raised.
type CodeError struct {
	Name      string `json:"name"`
	Message   string `json:"message"`
	Traceback string `json:"traceback,omitempty"` // plain text, with frames of the executed code only
}

// DeathCause is the reason why a kernel ended.
type DeathCause string

// The causes of a kernel's death.
const (
	DiedExit        DeathCause = "exit"          // the process exited by itself; ExitCode is set
	DiedSignal      DeathCause = "signal"        // a signal killed the process; Signal is set
	DiedOutOfMemory DeathCause = "out_of_memory" // the process reached a memory limit
	DiedStopped     DeathCause = "stopped"       // an interrupt or a timeout ended the process, because the code did not stop
	DiedStart       DeathCause = "start"         // the process did not start; Detail has the reason
)

// KernelDeath describes how and when a kernel ended.
type KernelDeath struct {
	Cause    DeathCause `json:"cause"`
	ExitCode int        `json:"exit_code,omitempty"`
	Signal   string     `json:"signal,omitempty"` // such as SIGSEGV
	Detail   string     `json:"detail,omitempty"` // a sentence about the cause
	Time     time.Time  `json:"time"`
}

// Interlude reports what happened to a kernel between two executions. It is part of the second execution, because no
// client follows the kernel between executions.
type Interlude struct {
	// LateBytes is the number of bytes that a thread, a timer or a child process printed between the executions, and
	// LateText is the end of that text. The text belongs to no execution, not even to the one that contains this
	// Interlude.
	LateBytes int64  `json:"late_bytes,omitempty"`
	LateText  string `json:"late_text,omitempty"`
	// AsOf is set if the sandbox's processes died and its state was restored from a checkpoint. It is the time of that
	// state: later changes to variables and files are lost.
	AsOf time.Time `json:"as_of_time,omitzero"`
	// Death is set if the kernel died. Its variables are lost.
	Death *KernelDeath `json:"death,omitempty"`
}

// MaxLateText is the largest size of an [Interlude]'s LateText, in bytes.
const MaxLateText = 2000

// EventType is the type of an event. It determines which of the event's fields are set.
type EventType string

// The types of events, with the fields that each of them sets.
const (
	EventStdout  EventType = "stdout"  // Text
	EventStderr  EventType = "stderr"  // Text
	EventDisplay EventType = "display" // Data
	EventResult  EventType = "result"  // Data: the value of the code's last expression
	EventError   EventType = "error"   // no field: the exception is in the Error field of the execution
	EventOmitted EventType = "omitted" // Bytes: the size of the text that is missing here; Reason: why
	EventStatus  EventType = "status"  // State
	EventFile    EventType = "file"    // File: a file that the execution created or changed
)

// Event is one thing that happened in an execution, such as printed text or a change of the execution's state.
type Event struct {
	Seq    int64     `json:"seq"` // the number of the event in its execution, from 1
	Type   EventType `json:"type"`
	Time   time.Time `json:"time,omitzero"`
	Offset int64     `json:"offset"` // the number of bytes of text that the execution printed before this event
	Text   string    `json:"text,omitempty"`
	// Data maps MIME types to values. Pictures are base64, and all other values are text.
	Data   map[string]string `json:"data,omitempty"`
	Bytes  int64             `json:"bytes,omitempty"`
	Reason OmitReason        `json:"reason,omitempty"`
	State  ExecutionState    `json:"state,omitempty"`
	File   *File             `json:"file,omitempty"`
}

// OmitReason is the reason why text is missing.
type OmitReason string

// The reasons why text can be missing.
const (
	OmittedByWindow OmitReason = "window" // the text is stored: a request with the Offset of this event returns it
	OmittedByLimit  OmitReason = "limit"  // the text is not stored, for example because it exceeded MaxOutputBytes
)

// Window selects the part of an execution's output that an answer contains. Of the stored text from Offset on, it
// selects the first Head and the last Tail bytes. If a cut would split a character, the window does not contain that
// character. An event of type omitted stands for the text between them. If Head and Tail are both zero, the window
// selects all stored text from Offset on. Displays, results and errors at or after Offset are always selected.
type Window struct {
	Offset int64 `json:"offset,omitempty"`
	Head   int   `json:"head,omitempty"`
	Tail   int   `json:"tail,omitempty"`
}

// MaxOffset is the largest offset in output and files that a request may contain. No output and no file is that long.
const MaxOffset = 1 << 52

// NoOutput is a window that selects no output, for callers that need only the state of an execution.
var NoOutput = Window{Offset: MaxOffset, Head: 1}

// ExecuteRequest is a request to execute code.
type ExecuteRequest struct {
	Code           string   `json:"code"`
	Language       Language `json:"language,omitempty"`
	TimeoutSeconds *int     `json:"timeout_seconds,omitempty"`
	// RequestID identifies the request if it is not empty: a retry with the same RequestID returns the first execution.
	RequestID string `json:"request_id,omitempty"`
	// WaitSeconds is how long the call may wait for the end of the execution. If it is 0, the call does not wait.
	WaitSeconds float64 `json:"wait_seconds,omitempty"`
	Window
}

// Defaults and limits for timeouts and waits, in seconds.
const (
	DefaultTimeoutSeconds = 600
	MaxTimeoutSeconds     = 86400
	DefaultWaitSeconds    = 45
	MaxWaitSeconds        = 300
)

// Validate checks the request. It sets an empty language to lang and a missing timeout to the default. Its errors are
// of kind invalid.
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
		return Errorf(Invalid, "code is not valid UTF-8: encode it as UTF-8")
	case strings.ContainsRune(r.Code, 0):
		return Errorf(Invalid, "code has a NUL character at byte %d: remove it", strings.IndexByte(r.Code, 0))
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

// ValidateWait returns an error of kind invalid unless s is between 0 and [MaxWaitSeconds].
func ValidateWait(s float64) error {
	if !(s >= 0 && s <= MaxWaitSeconds) {
		return Errorf(Invalid, "wait_seconds %g is out of range: use 0 to %d", s, MaxWaitSeconds)
	}
	return nil
}
